from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from offramp.data.folder import read_classes
from offramp.data.image_augment import ImageAugment, image_rng
from offramp.data.order import batch_rows, epoch_order, steps, steps_per_epoch
from offramp.data.preprocess import Preprocessing
from offramp.data.source import Samples, Split
from offramp.data.streamed import StreamedSplit
from offramp.data.workers import Workers
from offramp.errors import DataError
from offramp.train import feed
from offramp.train.feed import AugmentedImages, Batch, Feed, ResidentFeed, StreamedFeed, open_feed
from offramp.train.recipe import Recipe
from pictures import write_classes, write_truncated
from tiny import PREPROCESSING, RECIPE, images

COLOUR = Preprocessing(9, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
PLAIN = replace(RECIPE, batch_size=4, crop_pad=0, epochs=3, seed=2)
CPU, HERE = torch.device("cpu"), Workers(0)
SPLIT = Split(images(14), np.arange(14) % 4)


@pytest.fixture
def files(tmp_path: Path) -> StreamedSplit:
    """14 pictures, prepared."""
    write_classes(tmp_path / "pets", cat=9, dog=5)
    return read_classes(tmp_path / "pets", ("cat", "dog")).prepared(COLOUR, HERE)


def feed_of(samples: Samples, recipe: Recipe = PLAIN, workers: Workers = HERE) -> Feed:
    preprocessing = COLOUR if isinstance(samples, StreamedSplit) else PREPROCESSING
    return open_feed(samples, recipe, preprocessing, workers, CPU)


def run(samples: Samples, recipe: Recipe = PLAIN, workers: Workers = HERE, first: int = 0) -> list[Batch]:
    per_epoch = steps_per_epoch(len(samples), recipe.batch_size, recipe.drop_last)
    return list(feed_of(samples, recipe, workers).batches(first, per_epoch * recipe.epochs))


def same(found: Sequence[Batch], expected: Sequence[Batch]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert (one.epoch, one.place) == (other.epoch, other.place)
        for name in ("rows", "images", "labels"):
            ours, theirs = getattr(one, name), getattr(other, name)
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)


# ---- what a batch is


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("kind", ["in memory", "streamed"])
def test_batches_follow_the_order_of_each_epoch(kind: str, drop_last: bool, files: StreamedSplit) -> None:
    samples: Samples = SPLIT if kind == "in memory" else files
    decoded = SPLIT if kind == "in memory" else files.decoded()
    recipe = replace(PLAIN, drop_last=drop_last, color_jitter=0.0 if kind == "in memory" else 1e-9)
    batches = run(samples, recipe)
    per_epoch = 3 if drop_last else 4
    assert [(one.epoch, one.place) for one in batches] == list(steps(0, 3 * per_epoch, per_epoch))
    for one in batches:
        rows = batch_rows(epoch_order(2, one.epoch, 14), one.place, 4)
        assert one.rows.tolist() == rows.tolist()
        assert one.labels.tolist() == decoded.labels[rows].tolist()
        assert one.images.dtype == torch.uint8
        assert np.abs(one.images.numpy().astype(int) - decoded.images[rows]).max() <= 1  # a jitter of almost nothing


def test_images_stay_where_they_are_until_the_batch_is_made() -> None:
    frozen = images(14)
    frozen.flags.writeable = False
    same(run(Split(frozen[::-1], SPLIT.labels)), run(Split(images(14)[::-1].copy(), SPLIT.labels)))


@pytest.mark.parametrize("kind", ["in memory", "streamed"])
@pytest.mark.parametrize("first", [0, 1, 3, 7, 12])
def test_a_run_can_be_taken_up_at_any_step(kind: str, first: int, files: StreamedSplit) -> None:
    samples: Samples = SPLIT if kind == "in memory" else files
    recipe = replace(PLAIN, drop_last=False, crop_area=() if kind == "in memory" else (0.3, 1.0))
    whole = run(samples, recipe)
    assert len(whole) == 12
    assert [(one.epoch, one.place) for one in run(samples, recipe, first=first)] == [
        (one.epoch, one.place) for one in whole[first:]
    ]
    if first < 12:
        same(run(samples, recipe, first=first), whole[first:])


# ---- from memory or from files


def test_what_lies_in_memory_is_fed_from_there_unless_each_image_is_augmented_by_itself() -> None:
    assert isinstance(feed_of(SPLIT), ResidentFeed)
    for changes in ({"crop_area": (0.5, 1.0)}, {"color_jitter": 0.1}, {"randaugment": (2, 9)}):
        assert isinstance(feed_of(SPLIT, replace(PLAIN, **changes)), StreamedFeed)


def test_files_that_fit_into_memory_are_decoded_once_and_others_over_and_over(
    files: StreamedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = feed_of(files)
    assert isinstance(resident, ResidentFeed)
    assert files.decoded_bytes == 14 * 9 * 9 * 3
    expected = run(files)
    monkeypatch.setattr(feed, "RESIDENT_BYTES", files.decoded_bytes)
    assert isinstance(feed_of(files), ResidentFeed)
    monkeypatch.setattr(feed, "RESIDENT_BYTES", files.decoded_bytes - 1)
    assert isinstance(feed_of(files), StreamedFeed)
    same(run(files), expected)


@pytest.mark.parametrize("count", [1, 2])
def test_workers_change_nothing_about_the_batches(files: StreamedSplit, count: int) -> None:
    recipe = replace(PLAIN, crop_area=(0.3, 1.0), color_jitter=0.3, epochs=1)
    same(run(files, recipe, Workers(count)), run(files, recipe))


def test_what_happens_to_an_image_depends_on_neither_its_batch_nor_its_place(files: StreamedSplit) -> None:
    recipe = replace(PLAIN, crop_area=(0.3, 1.0), color_jitter=0.3, drop_last=False)
    found = {
        size: {
            (one.epoch, int(row)): image.tolist()
            for one in run(files, replace(recipe, batch_size=size))
            for row, image in zip(one.rows, one.images, strict=True)
        }
        for size in (4, 7)
    }
    assert len(found[4]) == 3 * 14
    assert found[4] == found[7]
    assert found[4][0, 5] != found[4][1, 5]


@pytest.mark.parametrize("streamed", [True, False])
def test_an_image_that_cannot_be_read_ends_the_batches_by_its_name(
    files: StreamedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    write_truncated(tmp_path / "pets" / "cat" / "3.png")
    recipe = replace(PLAIN, drop_last=False)
    if streamed:
        monkeypatch.setattr(feed, "RESIDENT_BYTES", 0)
    with pytest.raises(DataError, match=r"pets/cat/3\.png: cannot be decoded"):
        run(files, recipe)


# ---- what a worker does


def work(samples: Samples, preprocessing: Preprocessing = COLOUR, **changes: Any) -> AugmentedImages:
    augment = ImageAugment(
        size=preprocessing.image_size, area=changes.get("area", ()), interpolation=preprocessing.interpolation,
        color_jitter=changes.get("color_jitter", 0.0), randaugment=(), fill=preprocessing.fill,
    )  # fmt: skip
    return AugmentedImages(samples, preprocessing, augment if changes else None, seed=3)


def pixels(found: Any) -> Any:
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.uint8
    return found


def test_without_augmentation_an_image_is_only_fitted(files: StreamedSplit) -> None:
    assert np.array_equal(pixels(work(files)[4, 7]), COLOUR.fit(files.image(7)))


def test_a_crop_is_taken_from_the_whole_image(files: StreamedSplit) -> None:
    augmented = work(files, area=(0.3, 1.0))
    expected = augmented.augment(files.image(7), image_rng(3, 4, 7)) if augmented.augment else None
    assert np.array_equal(pixels(augmented[4, 7]), np.asarray(expected))


def test_colours_change_after_the_image_has_been_fitted(files: StreamedSplit) -> None:
    augmented = work(files, color_jitter=0.4)
    assert augmented.augment is not None
    expected = augmented.augment(Image.fromarray(COLOUR.fit(files.image(7))), image_rng(3, 4, 7))
    assert np.array_equal(pixels(augmented[4, 7]), np.asarray(expected))


@pytest.mark.parametrize("changes", [{"area": (0.5, 1.0)}, {"color_jitter": 0.3}], ids=["crop", "colours"])
def test_grey_images_keep_their_channel(changes: dict[str, Any], files: StreamedSplit) -> None:
    assert pixels(work(SPLIT, PREPROCESSING, **changes)[0, 1]).shape == (16, 16, 1)
    grey = Preprocessing(9, (0.5,), (0.25,))
    assert pixels(work(files.prepared(grey, HERE), grey, **changes)[0, 1]).shape == (9, 9, 1)


def test_an_image_that_cannot_be_read_is_handed_over_as_an_error(files: StreamedSplit, tmp_path: Path) -> None:
    (tmp_path / "pets" / "dog" / "0.png").unlink()
    error = work(files, color_jitter=0.1)[0, 9]
    assert isinstance(error, DataError)
    assert str(error) == f"{tmp_path}/pets/dog/0.png: no such file; check the path"
