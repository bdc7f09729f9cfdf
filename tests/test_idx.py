import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from offramp.catalog import entries
from offramp.data.idx import read_idx
from offramp.data.source import Part, Samples, SourceSpec, Split
from offramp.errors import DataError
from published import idx, write_idx

SOURCES: dict[str, SourceSpec] = entries("data", "SOURCES")
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def read(root: Path, part: Part = "train", name: str = "mnist") -> Split:
    samples: Samples = SOURCES[name].read(root, part)
    assert isinstance(samples, Split)
    return samples


def refusal(root: Path, name: str = "mnist", part: Part = "train") -> str:
    with pytest.raises(DataError) as caught:
        read(root, part, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("place", ["{name}", "{name}/raw", ".", "raw"])
@pytest.mark.parametrize("zipped", [False, True])
def test_images_and_labels_are_read_in_their_order(tmp_path: Path, name: str, place: str, zipped: bool) -> None:
    write_idx(tmp_path / place.format(name=name), zipped=zipped)
    for part, count in (("train", 12), ("test", 4)):
        split = read(tmp_path, part, name)  # type: ignore[arg-type]
        expected = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
        assert split.images.dtype == np.uint8
        assert np.array_equal(split.images, expected[..., None])
        assert split.labels.dtype == np.int64
        assert split.labels.tolist() == [number % 10 for number in range(count)]


def test_the_data_sets_own_folder_wins_over_the_one_above_and_compressed_files_over_plain_ones(tmp_path: Path) -> None:
    write_idx(tmp_path, zipped=True)
    write_idx(tmp_path / "mnist")
    (tmp_path / "mnist" / LABELS).write_bytes(idx(np.full(12, 7, np.uint8)))
    assert set(read(tmp_path).labels.tolist()) == {7}
    (tmp_path / "mnist" / f"{LABELS}.gz").write_bytes(gzip.compress(idx(np.full(12, 8, np.uint8))))
    assert set(read(tmp_path).labels.tolist()) == {8}


@pytest.mark.parametrize("place", ["mnist", "mnist/raw", ".", "raw"])
@pytest.mark.parametrize("zipped", [False, True])
def test_what_is_fetched_as_an_error_advises_is_read_instead_of_what_is_damaged(
    tmp_path: Path, place: str, zipped: bool
) -> None:
    damaged = write_idx(tmp_path / place, zipped=zipped)
    for file in damaged.iterdir():
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-1])
    assert refusal(tmp_path).endswith(f"get it anew: offramp data fetch mnist --data-root {tmp_path}")
    write_idx(tmp_path / "mnist", zipped=True)
    assert len(read(tmp_path)) == 12


def test_images_can_be_changed_after_reading(tmp_path: Path) -> None:
    images = read(write_idx(tmp_path)).images
    images[0] = 3
    assert (images[0] == 3).all()


@pytest.mark.parametrize(
    ("name", "first", "last"), [("mnist", "0", "9"), ("fashion-mnist", "T-shirt/top", "Ankle boot")]
)
def test_the_data_sets_are_described(name: str, first: str, last: str) -> None:
    spec = SOURCES[name]
    assert (spec.classes[0], spec.classes[-1], len(spec.classes)) == (first, last, 10)
    assert (spec.holdout, spec.preprocessing.image_size, spec.preprocessing.channels) == (5000, 28, 1)


def test_one_data_set_is_not_read_from_the_folder_of_the_other(tmp_path: Path) -> None:
    root = write_idx(tmp_path / "mnist")
    assert len(read(root, name="mnist")) == 12
    assert refusal(root, "fashion-mnist").startswith(f"{root}/fashion-mnist: no {IMAGES} there")


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_folder_without_the_files_is_refused_with_what_to_put_there(tmp_path: Path, part: Part) -> None:
    (tmp_path / "mnist").mkdir()
    stem = "train" if part == "train" else "t10k"
    for root in (tmp_path, tmp_path / "nowhere"):
        assert refusal(root, part=part) == (
            f"{root}/mnist: no {stem}-images-idx3-ubyte there nor in raw/, with or without .gz; "
            f"check --data-root, or get MNIST: offramp data fetch mnist --data-root {root}"
        )


def test_images_without_labels_are_refused(tmp_path: Path) -> None:
    folder = write_idx(tmp_path / "mnist")
    (folder / LABELS).unlink()
    assert refusal(tmp_path) == (
        f"{folder}: no {LABELS} there, with or without .gz; get it anew: offramp data fetch mnist --data-root {tmp_path}"
    )


WHOLE = idx(np.zeros((2, 28, 28), np.uint8))


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        (IMAGES, b"", "starts with nothing, an IDX file of bytes with 3 axes with 00000803; get it anew: offramp"),
        (
            IMAGES,
            b"<html>",
            "starts with 3c68746d, an IDX file of bytes with 3 axes with 00000803; get it anew: offramp",
        ),
        (IMAGES, idx(np.zeros(5, np.uint8)), "starts with 00000801, an IDX file of bytes with 3 axes with 00000803"),
        (LABELS, WHOLE, "starts with 00000803, an IDX file of bytes with 1 axes with 00000801"),
        (IMAGES, b"\x00\x00\x0d\x03" + WHOLE[4:], "starts with 00000d03, an IDX file of bytes with 3 axes"),
        (IMAGES, WHOLE[:10], "has 10 bytes, its header alone has 16; the copy is damaged"),
        (IMAGES, WHOLE[:-1], "has 1583 bytes, its header (2, 28, 28) wants 1584; the copy is damaged"),
        (IMAGES, WHOLE + b"\x00", "has 1585 bytes, its header (2, 28, 28) wants 1584; the copy is damaged"),
        (IMAGES, struct.pack(">4I", 0x803, *[2**32 - 1] * 3), "has 16 bytes, its header (4294967295, 4294967295,"),
        (
            IMAGES,
            idx(np.zeros((12, 32, 32), np.uint8)),
            "12 images of 32x32 pixels, wanted 28x28; get it anew: offramp",
        ),
        (IMAGES, idx(np.zeros((0, 28, 28), np.uint8)), "0 images of 28x28 pixels, wanted 28x28; get it anew: offramp"),
        (LABELS, idx(np.zeros(11, np.uint8)), f"11 labels, and {IMAGES} has 12 images; get it anew: offramp"),
        (LABELS, idx(np.full(12, 10, np.uint8)), "label 10: must lie in 0 … 9; is it MNIST? get it anew: offramp"),
    ],
)
def test_a_file_that_is_not_right_is_refused_by_name(tmp_path: Path, file: str, data: bytes, message: str) -> None:
    path = write_idx(tmp_path / "mnist") / file
    path.write_bytes(data)
    assert refusal(tmp_path).startswith(f"{path}: {message}")


def test_a_compressed_file_that_is_damaged_is_refused_by_name(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "mnist", zipped=True) / f"{IMAGES}.gz"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for damaged in (whole[: len(whole) // 2], whole[:-1], b"no gzip at all", bytes(flipped)):
        path.write_bytes(damaged)
        assert refusal(tmp_path).startswith(f"{path}: cannot be read (")


def test_the_header_decides_about_the_shape(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(array)))
    assert np.array_equal(read_idx(tmp_path / "a.gz", 3, ""), array)
