from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from offramp.data.holdout import Holdout, read_indices
from offramp.errors import DataError


def rows(*values: int) -> Any:
    return np.array(values, np.int64)


@given(count=st.integers(2, 200), data=st.data())
def test_train_and_calibrate_are_disjoint_and_together_everything(count: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, count - 1))
    seed = data.draw(st.integers(0, 1 << 40))
    order = data.draw(st.sampled_from([None, np.random.default_rng(seed).permutation(count)]))
    train, calibrate = Holdout(seed, size, order).cut("set", count, 1)
    assert len(calibrate) == size
    assert sorted([*train.tolist(), *calibrate.tolist()]) == list(range(count))
    assert calibrate.tolist() == sorted(calibrate.tolist())
    assert train.dtype == calibrate.dtype == np.int64


@given(count=st.integers(2, 100), data=st.data())
def test_named_images_are_held_out_and_all_others_trained_on(count: int, data: st.DataObject) -> None:
    named = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count - 1, unique=True))
    train, calibrate = Holdout(indices=rows(*named)).cut("set", count, 7)
    assert calibrate.tolist() == sorted(named)
    assert train.tolist() == [row for row in range(count) if row not in named]


def test_the_seed_decides_and_is_the_same_everywhere() -> None:
    assert Holdout(0, 5).cut("set", 20, 1)[1].tolist() == [1, 9, 14, 15, 17]
    assert Holdout(1, 5).cut("set", 20, 1)[1].tolist() != [1, 9, 14, 15, 17]


def test_the_data_sets_own_size_is_taken_where_none_is_given() -> None:
    assert len(Holdout().cut("set", 20, 6)[1]) == 6
    assert len(Holdout(size=3).cut("set", 20, 6)[1]) == 3


def test_of_an_order_of_all_images_the_last_are_held_out_and_the_others_keep_it() -> None:
    train, calibrate = Holdout(indices=rows(4, 2, 0, 5, 3, 1), size=2).cut("set", 6, 3)
    assert (train.tolist(), calibrate.tolist()) == ([4, 2, 0, 5], [1, 3])
    train, calibrate = Holdout(indices=rows(4, 2, 0, 5, 3, 1)).cut("set", 6, 3)
    assert (train.tolist(), calibrate.tolist()) == ([4, 2, 0], [1, 3, 5])


def test_public_codes_index_file_holds_out_its_last_5000(tmp_path: Path) -> None:
    order = torch.randperm(50_000)
    torch.save(order, tmp_path / "index.pth")
    train, calibrate = Holdout(indices=read_indices(tmp_path / "index.pth")).cut("cifar10", 50_000, 5000)
    assert train.tolist() == order[:-5000].tolist()
    assert calibrate.tolist() == sorted(order[-5000:].tolist())


@pytest.mark.parametrize(
    ("holdout", "message"),
    [
        (Holdout(), "'set' has 6 training images, its hold-out wants 6; hold out fewer"),
        (Holdout(size=7), "'set' has 6 training images, its hold-out wants 7"),
        (Holdout(indices=rows(0, 6)), "hold-out index 6: data set 'set' has training images 0 … 5; check the file"),
        (Holdout(indices=rows(3, -1)), "hold-out index -1: data set 'set' has training images 0 … 5"),
        (Holdout(indices=rows(3, 1, 3, 2)), "hold-out index 3 is given 2 times; name every image once"),
        (Holdout(indices=rows(0, 1, 2, 3, 4, 4), size=1), "hold-out index 4 is given 2 times"),
        (Holdout(indices=rows(1, 2, 3, 4, 5, 6), size=1), "hold-out index 6: data set 'set'"),
        (Holdout(indices=rows(0, 1), size=3), "hold-out of 3 images and 2 indices, which are no order of all 6; give"),
    ],
)
def test_a_hold_out_that_does_not_fit_is_refused(holdout: Holdout, message: str) -> None:
    with pytest.raises(DataError) as caught:
        holdout.cut("set", 6, 6)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, -2])
def test_a_hold_out_of_nothing_is_refused(size: int) -> None:
    with pytest.raises(DataError, match=rf"^hold-out of {size} images: calibration needs at least one$"):
        Holdout(size=size)


def test_a_hold_out_of_no_indices_is_refused() -> None:
    with pytest.raises(DataError, match=r"^hold-out of no indices: calibration needs at least one image$"):
        Holdout(indices=rows())


@pytest.mark.parametrize("text", ["3 1 2", "3\n1\n2\n", "\n 3 1\n\n2 "])
def test_text_is_separated_by_any_white_space(text: str, tmp_path: Path) -> None:
    (tmp_path / "held.txt").write_text(text)
    found = read_indices(tmp_path / "held.txt")
    assert found.tolist() == [3, 1, 2]
    assert found.dtype == np.int64


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_arrays_and_tensors_of_any_whole_numbers_are_read(kind: type, tmp_path: Path) -> None:
    array: NDArray[Any] = np.array([3, 1, 2], kind)
    np.save(tmp_path / "held.npy", array)
    torch.save(torch.from_numpy(array), tmp_path / "held.pth")
    for name in ("held.npy", "held.pth"):
        found = read_indices(tmp_path / name)
        assert found.tolist() == [3, 1, 2]
        assert found.dtype == np.int64


class Foreign:
    """Something a pickle could bring along."""


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("held.txt", "1 two 3", "cannot be read as indices (ValueError); check the file"),
        ("held.txt", "1.5 2", "cannot be read as indices (ValueError)"),
        ("held.txt", "", "holds int64 of shape (0,); wanted a row of whole numbers"),
        ("held.npy", np.array([0.5, 1.0]), "holds float64 of shape (2,)"),
        ("held.npy", np.array([[1, 2]]), "holds int64 of shape (1, 2)"),
        ("held.npy", np.array([True, False]), "holds bool of shape (2,)"),
        ("held.npy", b"\x93NUMPY, or not", "cannot be read as indices"),
        ("held.pth", torch.tensor([1.0]), "holds float32 of shape (1,)"),
        ("held.pth", [1, 2], "cannot be read as indices"),
        ("held.pth", Foreign(), "cannot be read as indices (UnpicklingError)"),
        ("held.pth", b"half a file", "cannot be read as indices"),
        ("held.csv", "1,2", "hold-out indices are read from .txt, .npy, .pth; convert the file"),
        ("gone.txt", None, "no such file; check the path"),
        ("gone.pth", None, "no such file; check the path"),
    ],
)
def test_files_that_hold_no_indices_are_refused_in_one_line(
    name: str, value: object, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    match value:
        case None:
            pass
        case str() | bytes():
            path.write_bytes(value if isinstance(value, bytes) else value.encode())
        case np.ndarray():
            np.save(path, value)
        case _:
            torch.save(value, path)
    with pytest.raises(DataError) as caught:
        read_indices(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_an_array_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "held.npy", np.array([1, Foreign()], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"cannot be read as indices \(ValueError\)"):
        read_indices(tmp_path / "held.npy")
