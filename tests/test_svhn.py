from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.catalog import entries
from offramp.data.source import Part, SourceSpec, Split
from offramp.errors import DataError
from published import svhn, write_svhn

SPEC: SourceSpec = entries("data", "SOURCES")["svhn"]


def read(root: Path, part: Part = "train") -> Split:
    samples = SPEC.read(root, part)
    assert isinstance(samples, Split)
    return samples


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("place", ["svhn", "."])
def test_images_come_upright_and_ten_is_the_digit_zero(tmp_path: Path, place: str) -> None:
    write_svhn(tmp_path / place)
    for part, count in (("train", 12), ("test", 4)):
        split = read(tmp_path, part)  # type: ignore[arg-type]
        stored = np.random.default_rng(count).integers(0, 256, (32, 32, 3, count), np.uint8)
        assert split.images.shape == (count, 32, 32, 3)
        assert split.images.dtype == np.uint8
        assert all(np.array_equal(split.images[row], stored[..., row]) for row in range(count))
        assert split.labels.dtype == np.int64
        assert split.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2][:count]


def test_the_data_set_is_described() -> None:
    assert SPEC.classes == tuple("0123456789")
    assert (SPEC.holdout, SPEC.preprocessing.image_size, SPEC.preprocessing.channels) == (5000, 32, 3)


def test_a_folder_without_the_file_is_refused_with_what_to_put_there(tmp_path: Path) -> None:
    assert refusal(tmp_path) == (
        f"{tmp_path}/svhn: no train_32x32.mat there; put the file of SVHN (format 2, cropped digits) there, "
        "or check --data-root (it is the folder above svhn)"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": None}, "holds no variable 'X'; get the file anew"),
        ({"y": None}, "holds no variable 'y'; get the file anew"),
        ({"X": np.zeros((32, 32, 1, 12), np.uint8)}, "X is uint8 (32, 32, 1, 12), wanted uint8 (32, 32, 3, N)"),
        ({"X": np.zeros((12, 32, 32, 3), np.uint8)}, "X is uint8 (12, 32, 32, 3), wanted uint8 (32, 32, 3, N)"),
        ({"X": np.zeros((32, 32, 3, 12))}, "X is float64 (32, 32, 3, 12), wanted uint8 (32, 32, 3, N)"),
        ({"X": np.zeros((32, 32), np.uint8)}, "X is uint8 (32, 32), wanted uint8 (32, 32, 3, N)"),
        ({"X": np.zeros((32, 32, 3, 0), np.uint8)}, "X is uint8 (32, 32, 3, 0), wanted uint8 (32, 32, 3, N)"),
        ({"y": np.ones((11, 1), np.uint8)}, "y is uint8 (11, 1), wanted (12, 1), one per image"),
        ({"y": np.array(["a"] * 12, object)}, "y is object (1, 12), wanted (12, 1), one per image"),
        ({"y": np.full((12, 1), 11)}, "label 11: must lie in 1 … 10, 10 being the digit 0; get the file anew"),
        ({"y": np.zeros((12, 1))}, "label 0.0: must lie in 1 … 10, 10 being the digit 0; get the file anew"),
        ({"y": np.full((12, 1), np.nan)}, "label nan: must lie in 1 … 10, 10 being the digit 0; get the file anew"),
        ({"y": np.full((12, 1), 1.5)}, "label 1.5: must lie in 1 … 10, 10 being the digit 0; get the file anew"),
    ],
)
def test_a_file_with_other_variables_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_svhn(tmp_path / "svhn") / "train_32x32.mat"
    path.write_bytes(svhn(12, **changes))
    assert refusal(tmp_path).startswith(f"{path}: {message}")


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    path = write_svhn(tmp_path / "svhn") / "train_32x32.mat"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    hdf5 = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(100)
    for damaged in (b"", b"<html>", whole[:60], whole[:130], whole[: len(whole) // 2], bytes(flipped), hdf5):
        path.write_bytes(damaged)
        assert refusal(tmp_path).startswith(f"{path}: ")
        assert refusal(tmp_path).endswith("; get the file anew")
