import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from offramp.catalog import entries
from offramp.data.folder import ClassFolders
from offramp.data.holdout import Holdout
from offramp.data.preprocess import Preprocessing
from offramp.data.source import Samples, Source, SourceSpec, Split
from offramp.data.workers import Workers
from offramp.errors import DataError
from tiny import decoded

SOURCES: dict[str, SourceSpec] = entries("data", "SOURCES")
SHARED = Path(__file__).parents[2] / "shared" / "data"
CIFAR10_TEST = "1249626010949d8f448e0faf792debbc3da0c50ed31bfff3678c99c37fbc7e48"


def numbered(_root: Path | None, part: Literal["train", "test"]) -> Split:
    """Images whose colour is their number; test images start at 100."""
    numbers = np.arange(40) if part == "train" else np.arange(100, 110)
    return Split(np.broadcast_to(numbers.astype(np.uint8)[:, None, None, None], (len(numbers), 2, 2, 1)), numbers % 3)


NUMBERED = SourceSpec(
    "numbered", ("a", "b", "c"), Preprocessing(2, (0.5,), (0.5,)), holdout=15, needs_root=False, read=numbered
)


def test_the_splits_are_disjoint_and_together_everything() -> None:
    source = NUMBERED.open()
    train, calibrate, test = (
        decoded(source, name).images[:, 0, 0, 0].tolist() for name in ("train", "calibrate", "test")
    )  # fmt: skip
    assert (len(train), len(calibrate), len(test)) == (25, 15, 10)
    assert sorted(train + calibrate) == list(range(40))
    assert test == list(range(100, 110))


def test_labels_stay_with_their_images() -> None:
    for name in ("train", "calibrate", "test"):
        split = decoded(NUMBERED.open(holdout=Holdout(5)), name)
        assert np.array_equal(split.labels, split.images[:, 0, 0, 0] % 3)


def test_the_calibrate_split_is_the_held_out_images_in_their_order() -> None:
    source = NUMBERED.open()
    assert source.calibrate_indices.tolist() == sorted(source.calibrate_indices)
    assert decoded(source, "calibrate").images[:, 0, 0, 0].tolist() == source.calibrate_indices.tolist()


def test_the_seed_and_nothing_else_decides_who_is_held_out() -> None:
    held_out = [NUMBERED.open(holdout=Holdout(seed)).calibrate_indices.tolist() for seed in (0, 0, 1)]
    assert held_out[0] == held_out[1] != held_out[2]
    one, other = (decoded(NUMBERED.open(holdout=Holdout(seed)), "test").images for seed in (0, 1))
    assert np.array_equal(one, other)


def test_images_are_read_when_first_asked_for_and_once() -> None:
    parts: list[str] = []

    def read(root: Path | None, part: Literal["train", "test"]) -> Split:
        parts.append(part)
        return numbered(root, part)

    source = SourceSpec("counted", ("a",), NUMBERED.preprocessing, holdout=15, needs_root=False, read=read).open()
    assert (source.name, source.classes, source.preprocessing) == ("counted", ("a",), NUMBERED.preprocessing)
    assert parts == []
    for name in ("test", "train", "calibrate", "test", "train"):
        source.split(name)
    assert parts == ["test", "train"]


def test_the_reader_gets_the_folder_the_user_named(tmp_path: Path) -> None:
    def read(root: Path | None, part: Literal["train", "test"]) -> Split:
        assert root == tmp_path
        return numbered(root, part)

    spec = SourceSpec("rooted", ("a",), NUMBERED.preprocessing, holdout=15, needs_root=True, read=read)
    assert len(spec.open(tmp_path).split("test")) == 10


def test_a_data_set_in_a_folder_wants_the_folder() -> None:
    with pytest.raises(DataError, match=r"^data set 'cifar10' lives in a folder of yours; name the one above it with"):
        SOURCES["cifar10"].open()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_folder_without_cifar_is_refused_with_the_place_that_was_looked_at(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"{name}: no CIFAR-10+ there.*; check --data-root"):
        SOURCES[name].open(tmp_path).split("test")


def test_a_training_part_no_larger_than_the_hold_out_is_refused() -> None:
    spec = SourceSpec("cut", ("a",), NUMBERED.preprocessing, holdout=40, needs_root=False, read=numbered)
    with pytest.raises(DataError, match="'cut' has 40 training images, its hold-out wants 40; hold out fewer"):
        spec.open().split("train")


def test_a_hold_out_may_have_another_size_or_be_given_image_by_image() -> None:
    assert len(NUMBERED.open(holdout=Holdout(size=3)).split("calibrate")) == 3
    given = NUMBERED.open(holdout=Holdout(indices=np.array([7, 2, 39])))
    assert decoded(given, "calibrate").images[:, 0, 0, 0].tolist() == given.calibrate_indices.tolist() == [2, 7, 39]
    assert sorted(decoded(given, "train").images[:, 0, 0, 0]) == [n for n in range(40) if n not in (2, 7, 39)]


def test_the_digest_of_a_hold_out_changes_with_the_images_in_it() -> None:
    digests = [NUMBERED.open(holdout=Holdout(seed)).holdout_digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_images_can_be_left_out_of_both_parts_before_anything_is_held_out() -> None:
    def sift(samples: Samples) -> Samples:
        return samples.take(np.flatnonzero(samples.labels != 1))

    source = NUMBERED.open(sift=sift)
    held_out, rest, test = (decoded(source, name) for name in ("calibrate", "train", "test"))
    assert sorted([*held_out.images[:, 0, 0, 0], *rest.images[:, 0, 0, 0]]) == [n for n in range(40) if n % 3 != 1]
    assert len(held_out) == 15
    assert test.images[:, 0, 0, 0].tolist() == [n for n in range(100, 110) if n % 3 != 1]


def test_images_in_memory_are_brought_to_the_size_and_colours_of_the_model() -> None:
    source = NUMBERED.open(preprocessing=Preprocessing(5, (0.5,) * 3, (0.5,) * 3))
    test = decoded(source, "test")
    assert test.images.shape == (10, 5, 5, 3)
    assert (test.images == np.arange(100, 110)[:, None, None, None]).all()
    assert test.labels.tolist() == (np.arange(100, 110) % 3).tolist()


def test_images_that_fit_the_model_already_are_not_copied() -> None:
    split = numbered(None, "train")
    assert split.prepared(NUMBERED.preprocessing, Workers(0)) is split
    assert np.array_equal(np.concatenate(list(split.batches(16))), split.images)
    assert np.asarray(split.image(7)).tolist() == [[7, 7], [7, 7]]


def test_images_and_labels_must_be_as_many() -> None:
    with pytest.raises(DataError, match="3 images and 2 labels: there must be one label per image"):
        Split(np.zeros((3, 2, 2, 1), np.uint8), np.zeros(2, np.int64))


def test_taking_rows_keeps_their_order() -> None:
    split = numbered(None, "train").take(np.array([5, 2, 9]))
    assert split.labels.tolist() == [2, 2, 0]
    assert split.images[:, 0, 0, 0].tolist() == [5, 2, 9]
    assert len(split) == 3


@pytest.fixture(scope="module")
def digits() -> Source:
    return SOURCES["digits"].open()


def test_the_digits_are_the_1797_real_scans(digits: Source) -> None:
    sizes = {name: len(digits.split(name)) for name in ("train", "calibrate", "test")}
    assert sizes == {"train": 1200, "calibrate": 237, "test": 360}
    for name in ("train", "calibrate", "test"):
        split = decoded(digits, name)
        assert split.images.shape[1:] == (32, 32, 1)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert set(split.labels.tolist()) == set(range(10))
    assert digits.classes == tuple("0123456789")


def test_no_digit_is_in_two_splits_by_its_place_in_the_original(digits: Source) -> None:
    from sklearn.datasets import load_digits

    shrunk = [digits.split(name).labels for name in ("train", "calibrate", "test")]
    assert np.array_equal(np.bincount(np.concatenate(shrunk)), np.bincount(load_digits().target))


def test_the_digits_have_the_statistics_that_are_taken_off(digits: Source) -> None:
    values = np.concatenate([decoded(digits, "train").images, decoded(digits, "calibrate").images]) / 255
    assert digits.preprocessing.mean[0] == pytest.approx(values.mean(), abs=0.005)
    assert digits.preprocessing.std[0] == pytest.approx(values.std(), abs=0.005)


def test_every_data_set_has_names_statistics_and_a_hold_out() -> None:
    for name, spec in SOURCES.items():
        assert spec.name == name
        if not isinstance(spec, ClassFolders):  # whose names are those of the folders, once it is opened
            assert len(spec.classes) == len(set(spec.classes)) >= 2
        assert spec.holdout > 0


@pytest.mark.slow
def test_cifar10_is_read_as_it_was_published() -> None:
    if not (SHARED / "cifar10").is_dir():
        pytest.skip("no copy of CIFAR-10 in ../shared/data")
    images = decoded(SOURCES["cifar10"].open(SHARED), "test").images
    assert hashlib.sha256(images.tobytes()).hexdigest() == CIFAR10_TEST
