import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from offramp.data.parquet import read_part
from offramp.data.source import Split
from offramp.errors import DataError, MissingExtraError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

CLASSES = ("cat", "dog", "cow")


def png(value: int, size: tuple[int, int] = (4, 4), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, value).convert(mode).save(buffer, "png")
    return buffer.getvalue()


def write(
    path: Path,
    images: list[Any],
    labels: list[Any],
    *,
    columns: tuple[str, str] = ("img", "label"),
    metadata: Any = None,
) -> None:
    """A file as Hugging Face datasets writes it; ``metadata`` replaces the whole schema description."""
    cells = [{"bytes": image, "path": None} if isinstance(image, bytes) else image for image in images]
    described = {"info": {"features": {columns[1]: {"names": list(CLASSES), "_type": "ClassLabel"}}}}
    table = pa.table({columns[0]: cells, columns[1]: labels})
    raw = json.dumps(described) if metadata is None else metadata
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": raw} if raw else None), path)


def read(folder: Path, part: Any = "train", size: int = 4, mode: str = "RGB") -> Split:
    return read_part(folder, part, CLASSES, labels=("label", "fine_label"), size=size, mode=mode)


@pytest.mark.parametrize("columns", [("img", "label"), ("image", "fine_label")])
def test_images_and_labels_come_in_the_order_of_the_files(tmp_path: Path, columns: tuple[str, str]) -> None:
    write(tmp_path / "train-00001-of-00002.parquet", [png(30)], [0], columns=columns)
    write(tmp_path / "train-00000-of-00002.parquet", [png(10), png(20)], [2, 1], columns=columns)
    write(tmp_path / "test-00000-of-00001.parquet", [png(99)], [1], columns=columns)
    split = read(tmp_path)
    assert split.images.dtype == np.uint8
    assert split.images.shape == (3, 4, 4, 3)
    assert split.images[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert split.labels.tolist() == [2, 1, 0]
    assert split.labels.dtype == np.int64
    assert read(tmp_path, "test").images[:, 0, 0, 0].tolist() == [99]


def test_every_pixel_survives(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    write(tmp_path / "train-0.parquet", [buffer.getvalue()], [0])
    assert np.array_equal(read(tmp_path).images[0], pixels)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
@pytest.mark.parametrize("stored", ["RGB", "L", "RGBA"])
def test_images_are_converted_to_the_colour_mode_asked_for(
    tmp_path: Path, mode: str, channels: int, stored: str
) -> None:
    write(tmp_path / "train-0.parquet", [png(7, mode=stored)], [0])
    images = read(tmp_path, mode=mode).images
    assert images.shape == (1, 4, 4, channels)
    assert (images == 7).all()


def test_a_folder_without_the_files_is_refused_with_the_option_that_names_it(tmp_path: Path) -> None:
    write(tmp_path / "cifar10" / "test-0.parquet", [png(0)], [0])
    for folder in (tmp_path / "cifar10", tmp_path / "nowhere"):
        with pytest.raises(DataError) as caught:
            read(folder)
        message = f"{folder}: no train-*.parquet there; check --data-root (it is the folder above {folder.name})"
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": ("picture", "label")}, "columns picture, label, wanted img or image; check the path"),
        ({"columns": ("img", "klass")}, "columns img, klass, wanted label or fine_label; check the path"),
        ({"metadata": ""}, "no class names for column 'label' in the schema"),
        ({"metadata": "not json"}, "no class names for column 'label' in the schema"),
        ({"metadata": "[]"}, "no class names for column 'label' in the schema"),
        ({"metadata": '{"info": {"features": {}}}'}, "no class names for column 'label' in the schema"),
        ({"metadata": '{"info": {"features": {"label": {"names": null}}}}'}, "no class names for column 'label'"),
        (
            {"metadata": '{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}'},
            "class names cat, dog … (2) are not those of",
        ),
        ({"labels": [0, 3]}, "labels must lie in 0 … 2; the copy is damaged, get it anew"),
        ({"labels": [-1, 0]}, "labels must lie in 0 … 2; the copy is damaged, get it anew"),
        ({"images": [], "labels": []}, "0 labels must lie in 0 … 2; the copy is damaged, get it anew"),
        ({"images": [png(0), b"no image"]}, "train image 1 cannot be decoded"),
        ({"images": [png(0), png(0)[:40]]}, "train image 1 cannot be decoded"),
        ({"images": [png(0), None]}, "train image 1 cannot be decoded"),
        ({"images": [{"path": "a"}, {"path": "b"}]}, "train image 0 cannot be decoded"),
        ({"images": [png(0), png(0, (5, 4))]}, "train image 1 is 5x4, wanted 4x4"),
    ],
)
def test_a_file_that_is_not_the_data_set_is_refused_in_one_line(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    good: dict[str, Any] = {"images": [png(0), png(1)], "labels": [0, 1]}
    write(tmp_path / "train-0.parquet", **(good | arguments))
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", [png(0), png(1)], ["cat", "dog"])
    with pytest.raises(DataError, match="labels must"):
        read(tmp_path)


def test_missing_labels_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", [png(0), png(1)], [0, None])
    with pytest.raises(DataError, match="labels must"):
        read(tmp_path)


def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", [png(0)], [0])
    whole = (tmp_path / "train-0.parquet").read_bytes()
    for damaged in (b"", b"PAR1 nothing", whole[:-20]):
        (tmp_path / "train-0.parquet").write_bytes(damaged)
        with pytest.raises(DataError, match=r"train-\*\.parquet cannot be read .*; get the files anew$") as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)


def test_without_pyarrow_the_way_to_install_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        MissingExtraError, match=r"needs pyarrow, which is not installed: pip install 'offramp\[data\]'"
    ):
        read(tmp_path)
