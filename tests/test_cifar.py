import hashlib
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from offramp.data.source import Split
from published import (
    ARCHIVES,
    CIFAR,
    SOURCES,
    cifar_batch,
    cifar_images,
    pack,
    python2_pickle,
    read,
    refusal,
    write_cifar,
    write_parquet,
    write_small_cifar,
)

TINY = Path(__file__).parents[2] / "shared" / "data" / "cifar10_tiny"
CLASSES = SOURCES["cifar10"].classes
NAMES = pytest.mark.parametrize("name", ["cifar10", "cifar100"])


def check_small(root: Path, name: str) -> None:
    train, test = read(root, name), read(root, name, "test")
    assert np.array_equal(train.images, cifar_images(10))
    assert np.array_equal(test.images, cifar_images(3, seed=1))
    assert train.images.dtype == np.uint8
    assert (train.labels.tolist(), test.labels.tolist()) == (list(range(10)), [9, 0, 4])
    assert train.labels.dtype == np.int64


@NAMES
@pytest.mark.parametrize("place", ["{name}/{folder}", "{name}", "{folder}", "."])
def test_the_official_batches_are_read_from_their_folder_or_bare(tmp_path: Path, name: str, place: str) -> None:
    write_small_cifar(tmp_path / place.format(name=name, folder=CIFAR[name][0]), name)
    check_small(tmp_path, name)


@NAMES
@pytest.mark.parametrize("place", ["{name}", "."])
def test_the_official_archive_is_read_and_nothing_is_written(tmp_path: Path, name: str, place: str) -> None:
    folder = write_small_cifar(tmp_path / CIFAR[name][0], name)
    archive = pack(folder, tmp_path / "root" / place.format(name=name) / ARCHIVES[name])
    check_small(tmp_path / "root", name)
    assert [path for path in (tmp_path / "root").rglob("*") if path.is_file()] == [archive]


def test_parquet_comes_before_the_folder_the_folder_before_the_archive_and_the_own_folder_before_the_one_above(
    tmp_path: Path,
) -> None:
    steps = [(3, "", True), (4, "", False), (5, "cifar10", True), (6, "cifar10", False)]
    for label, place, packed in steps:
        folder = write_cifar(
            tmp_path / "made" / str(label) / CIFAR["cifar10"][0], "cifar10", (cifar_images(5), [label] * 5),
            (cifar_images(1), [label]),
        )  # fmt: skip
        if packed:
            pack(folder, tmp_path / place / ARCHIVES["cifar10"])
        else:
            shutil.copytree(folder, tmp_path / place / folder.name)
        for part in ("train", "test"):
            assert set(read(tmp_path, part=part).labels.tolist()) == {label}
    write_parquet(tmp_path / "cifar10", CLASSES, cifar_images(2), [7, 7])
    assert set(read(tmp_path).labels.tolist()) == {7}
    assert set(read(tmp_path, part="test").labels.tolist()) == {7}


def test_parquet_files_of_something_else_in_the_data_root_are_not_taken_for_cifar(tmp_path: Path) -> None:
    write_parquet(tmp_path, CLASSES, cifar_images(2), [7, 7])
    assert "no CIFAR-10 there" in refusal(tmp_path)
    write_small_cifar(tmp_path / CIFAR["cifar10"][0], "cifar10")
    check_small(tmp_path, "cifar10")


def test_the_folder_of_parquet_files_may_be_named_instead_of_the_one_above(tmp_path: Path) -> None:
    write_parquet(tmp_path / "cifar10", CLASSES, cifar_images(2), [1, 2])
    assert read(tmp_path / "cifar10").labels.tolist() == [1, 2]


@pytest.mark.skipif(not TINY.is_dir(), reason="no copy of the first rows of CIFAR-10 in ../shared/data")
def test_all_forms_hold_the_same_images_in_the_same_order(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "parquet").mkdir()
    (tmp_path / "parquet" / "cifar10").symlink_to(TINY, target_is_directory=True)
    parquet = {part: read(tmp_path / "parquet", part=part) for part in ("train", "test")}
    assert (len(parquet["train"]), len(parquet["test"])) == (1000, 500)
    folder = write_cifar(
        tmp_path / "folder" / "cifar10" / CIFAR["cifar10"][0], "cifar10",
        (parquet["train"].images, parquet["train"].labels), (parquet["test"].images, parquet["test"].labels),
    )  # fmt: skip
    pack(folder, tmp_path / "archive" / "cifar10" / ARCHIVES["cifar10"])
    for form in ("folder", "archive"):
        for part, expected in parquet.items():
            found = read(tmp_path / form, part=part)  # type: ignore[arg-type]
            assert np.array_equal(found.images, expected.images)
            assert np.array_equal(found.labels, expected.labels)
    sample = parquet["train"].images[0]
    official = sample[:, :, 0].tobytes() + sample[:, :, 1].tobytes() + sample[:, :, 2].tobytes()
    assert official in (folder / "data_batch_1").read_bytes()


@NAMES
def test_batches_without_the_file_of_class_names_are_read(tmp_path: Path, name: str) -> None:
    folder = write_small_cifar(tmp_path / CIFAR[name][0], name)
    (folder / CIFAR[name][3]).unlink()
    check_small(tmp_path, name)


def test_labels_may_be_an_array(tmp_path: Path) -> None:
    folder = write_small_cifar(tmp_path / "cifar10", "cifar10")
    fields = {**cifar_batch("cifar10", cifar_images(2), []), "labels": np.array([5, 6])}
    (folder / "test_batch").write_bytes(python2_pickle(fields))
    assert read(tmp_path, part="test").labels.tolist() == [5, 6]


def test_files_of_another_folder_in_the_archive_are_passed_over(tmp_path: Path) -> None:
    folder = write_small_cifar(tmp_path / CIFAR["cifar10"][0], "cifar10")
    archive = tmp_path / "root" / ARCHIVES["cifar10"]
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, f"./{folder.name}/{file.name}")
        tar.add(folder / "test_batch", "elsewhere/data_batch_1")
    check_small(tmp_path / "root", "cifar10")


@pytest.mark.slow
@NAMES
def test_the_hold_out_of_the_batches_is_that_of_the_parquet_files(tmp_path: Path, name: str) -> None:
    shared = TINY.parent
    if not (shared / name).is_dir():
        pytest.skip(f"no copy of {name} in ../shared/data")
    train, test = read(shared, name), read(shared, name, "test")
    parts = ((train.images, train.labels), (test.images, test.labels))
    folder = write_cifar(tmp_path / name / CIFAR[name][0], name, *parts)
    digests = []
    for root in (shared, folder.parent.parent):
        source = SOURCES[name].open(root)
        held_out = source.split("calibrate")
        assert isinstance(held_out, Split)
        digests.append((source.holdout_digest, hashlib.sha256(held_out.images.tobytes()).hexdigest()))
    assert digests[0] == digests[1]
