import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from published import (
    ARCHIVES,
    CIFAR,
    cifar_batch,
    cifar_images,
    cifar_meta,
    pack,
    python2_pickle,
    read,
    refusal,
    write_small_cifar,
)

NAMES = pytest.mark.parametrize("name", ["cifar10", "cifar100"])


@NAMES
def test_a_folder_without_any_form_is_refused_with_the_forms_and_the_command(tmp_path: Path, name: str) -> None:
    title, (folder, *_) = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[name], CIFAR[name]
    (tmp_path / name).mkdir()
    for root in (tmp_path, tmp_path / "nowhere"):
        assert refusal(root, name) == (
            f"{root}/{name}: no {title} there, neither Parquet files (train-*.parquet), nor {folder}, nor "
            f"{ARCHIVES[name]}; check --data-root, or get it: offramp data fetch {name} --data-root {root}"
        )


@NAMES
def test_a_missing_batch_is_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = write_small_cifar(tmp_path / name / CIFAR[name][0], name)
    lost = CIFAR[name][1][-1]
    (folder / lost).unlink()
    fetch = f"get it anew: offramp data fetch {name} --data-root {tmp_path}"
    assert refusal(tmp_path, name) == f"{folder}: has no {lost}; move {folder} away and {fetch}"
    assert len(read(tmp_path, name, "test")) == 3
    archive = pack(folder, tmp_path / name / ARCHIVES[name])
    shutil.rmtree(folder)
    assert refusal(tmp_path, name) == f"{archive}: has no {lost}; {fetch}"


@NAMES
@pytest.mark.parametrize("wrong", ["order", "fewer", "none", "number"])
def test_class_names_that_are_not_those_of_the_data_set_are_refused(tmp_path: Path, name: str, wrong: str) -> None:
    folder = write_small_cifar(tmp_path / CIFAR[name][0], name)
    meta = cifar_meta(name)
    key = "label_names" if name == "cifar10" else "fine_label_names"
    names = meta[key]
    one, two, count = names[0], names[1], len(names)
    changed = {"order": [two, one, *names[2:]], "fewer": names[:-1], "none": [], "number": 3}[wrong]
    (folder / CIFAR[name][3]).write_bytes(python2_pickle({**meta, key: changed}))
    said = f"class 0 is '{two}', wanted '{one}'"
    if wrong != "order":
        said = f"{count - 1 if wrong == 'fewer' else 0} class names, wanted {count}"
    title = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[name]
    assert refusal(tmp_path, name).startswith(f"{folder}/{CIFAR[name][3]}: {said} as in {title}; get it anew: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": np.zeros((2, 1024), np.uint8)}, "data is uint8 of shape (2, 1024), wanted uint8 (N, 3072)"),
        ({"data": np.zeros((2, 3072))}, "data is float64 of shape (2, 3072), wanted uint8 (N, 3072)"),
        ({"data": np.zeros((2, 3, 32, 32), np.uint8)}, "data is uint8 of shape (2, 3, 32, 32), wanted uint8 (N, 3072)"),
        ({"data": np.zeros((0, 3072), np.uint8)}, "data is uint8 of shape (0, 3072), wanted uint8 (N, 3072)"),
        ({"data": np.zeros((), np.uint8)}, "data is uint8 of shape (), wanted uint8 (N, 3072)"),
        ({"data": [1, 2]}, "data is list, wanted uint8 (N, 3072)"),
        ({"data": None}, "data is NoneType, wanted uint8 (N, 3072)"),
        ({"labels": [0]}, "wanted 2 whole numbers as 'labels', one per image"),
        ({"labels": None}, "wanted 2 whole numbers as 'labels', one per image"),
        ({"labels": 3}, "wanted 2 whole numbers as 'labels', one per image"),
        ({"labels": [[0], [0, 1]]}, "wanted 2 whole numbers as 'labels', one per image"),
        ({"labels": ["cat", "dog"]}, "wanted 2 whole numbers as 'labels', one per image"),
        ({"labels": np.zeros((2, 1), np.int64)}, "wanted 2 whole numbers as 'labels', one per image"),
        ({"labels": np.zeros((), np.int64)}, "wanted 2 whole numbers as 'labels', one per image"),
        ({"labels": [0, None]}, "wanted 2 whole numbers as 'labels', one per image"),
        ({"labels": np.array([0, 2**63], np.uint64)}, "wanted 2 whole numbers as 'labels', one per image"),
        ({"labels": [0, 10]}, "label 10: must lie in 0 … 9"),
        ({"labels": [-1, 0]}, "label -1: must lie in 0 … 9"),
    ],
)
def test_a_batch_that_is_not_right_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = write_small_cifar(tmp_path / "cifar10", "cifar10")
    fields = {**cifar_batch("cifar10", cifar_images(2), [0, 1]), **changes}
    batch = python2_pickle({key: value for key, value in fields.items() if value is not None})
    (folder / "data_batch_2").write_bytes(batch)
    assert refusal(tmp_path).startswith(f"{folder}/data_batch_2: {message}")
    advice = f"; move {folder} away and get it anew: offramp data fetch cifar10 --data-root {tmp_path}"
    assert refusal(tmp_path).endswith(advice)


@pytest.mark.parametrize("packed", [False, True])
def test_a_batch_that_would_run_code_is_refused_wherever_it_lies(tmp_path: Path, packed: bool) -> None:
    folder = write_small_cifar(tmp_path / "cifar10" / CIFAR["cifar10"][0], "cifar10")
    holder, away = folder, f"move {folder} away and "
    (folder / "data_batch_3").write_bytes(b"\x80\x02cposix\nsystem\nU\x09echo harm\x85R.")
    if packed:
        holder, away = pack(folder, tmp_path / "cifar10" / ARCHIVES["cifar10"]), ""
        shutil.rmtree(folder)
    assert refusal(tmp_path) == (
        f"{holder}/data_batch_3: wants to load 'posix.system', and only arrays and plain values are read; "
        f"{away}get it anew: offramp data fetch cifar10 --data-root {tmp_path}"
    )


def test_a_truncated_batch_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_small_cifar(tmp_path / "cifar10", "cifar10")
    whole = (folder / "data_batch_4").read_bytes()
    for damaged in (b"", whole[:100], whole[:-1]):
        (folder / "data_batch_4").write_bytes(damaged)
        assert refusal(tmp_path).startswith(f"{folder}/data_batch_4: cannot be read as a pickle of arrays (")


def test_a_damaged_archive_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_small_cifar(tmp_path / CIFAR["cifar10"][0], "cifar10")
    archive = pack(folder, tmp_path / "root" / ARCHIVES["cifar10"])
    whole = archive.read_bytes()
    checksum = bytearray(whole)
    checksum[-8] ^= 1
    middle = bytearray(whole)
    middle[len(whole) // 2] ^= 1
    pieces = [whole[: len(whole) * tenth // 10] for tenth in range(10)]
    for damaged in (*pieces, whole[:-1], bytes(checksum), bytes(middle), b"<html>", gzip.compress(b"no archive")):
        archive.write_bytes(damaged)
        for part in ("train", "test"):
            message = refusal(tmp_path / "root", part=part)
            assert message.startswith(str(archive))
            assert f"get it anew: offramp data fetch cifar10 --data-root {tmp_path / 'root'}" in message


def test_a_batch_that_cannot_be_opened_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_small_cifar(tmp_path / "cifar10", "cifar10")
    (folder / "data_batch_5").unlink()
    (folder / "data_batch_5").mkdir()
    assert refusal(tmp_path).startswith(f"{folder}/data_batch_5: cannot be read (Is a directory); move ")


@pytest.mark.parametrize("place", ["cifar10/cifar-10-batches-py", "cifar10", "cifar-10-batches-py", "."])
def test_what_is_fetched_as_an_error_advises_is_read_instead_of_what_is_damaged(tmp_path: Path, place: str) -> None:
    root = tmp_path / "root"
    damaged = write_small_cifar(root / place, "cifar10")
    sound = write_small_cifar(tmp_path / CIFAR["cifar10"][0], "cifar10")
    (damaged / "data_batch_1").write_bytes(b"")
    message = refusal(root)
    assert message.endswith(f"get it anew: offramp data fetch cifar10 --data-root {root}")
    assert (f"; move {damaged} away and" in message) == place.startswith("cifar10")
    if place.startswith("cifar10"):
        damaged.rename(tmp_path / "away")
    pack(sound, root / "cifar10" / ARCHIVES["cifar10"])
    assert np.array_equal(read(root).images, cifar_images(10))
