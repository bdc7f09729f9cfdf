"""Batches of training images: from memory on the device, or streamed from worker processes."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from offramp.data.image_augment import ImageAugment, image_rng
from offramp.data.order import batch_rows, epoch_order, steps, steps_per_epoch
from offramp.data.preprocess import Preprocessing
from offramp.data.source import Samples, Split
from offramp.data.streamed import StreamedSplit, pack, unpacked
from offramp.data.workers import Workers
from offramp.errors import DataError
from offramp.train.recipe import Recipe

RESIDENT_BYTES = 2 << 30
"""Decoded sets up to this size are kept in memory, on the device."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Images before augmentation on the device; everything is there already."""

    epoch: int
    place: int
    """In the epoch, counted from 0."""
    rows: Tensor
    """Of the training split, (N,)."""
    images: Tensor
    """uint8 (N, H, W, C)."""
    labels: Tensor
    """(N,)."""


class Feed(Protocol):
    """Gives the batches of a run from any step on."""

    def batches(self, first: int, total: int) -> Generator[Batch]:
        """The batches of the steps ``first`` … ``total - 1``."""
        ...


@dataclass(frozen=True, eq=False)
class ResidentFeed:
    """All images on the device."""

    images: Tensor
    labels: Tensor
    recipe: Recipe

    def batches(self, first: int, total: int) -> Generator[Batch]:
        """One gather each; the order travels to the device once per epoch."""
        recipe, count = self.recipe, len(self.labels)
        sent, order = -1, torch.empty(0, dtype=torch.int64)
        for epoch, place in steps(first, total, steps_per_epoch(count, recipe.batch_size, recipe.drop_last)):
            if epoch != sent:
                sent, order = epoch, _send(torch.tensor(epoch_order(recipe.seed, epoch, count)), self.images.device)
            rows = order[place * recipe.batch_size : (place + 1) * recipe.batch_size]
            yield Batch(epoch, place, rows, self.images[rows], self.labels[rows])


@dataclass(frozen=True, eq=False)
class StreamedFeed:
    """Images decoded and augmented by workers, a few batches ahead."""

    samples: Samples
    recipe: Recipe
    preprocessing: Preprocessing
    workers: Workers
    device: torch.device

    def batches(self, first: int, total: int) -> Generator[Batch]:
        """Workers are started once, for all epochs.

        Raises:
            DataError: an image cannot be read, or a worker died.
        """
        recipe, count = self.recipe, len(self.samples)
        per_epoch = steps_per_epoch(count, recipe.batch_size, recipe.drop_last)

        def rows_of(epoch: int, place: int) -> NDArray[np.int64]:
            return batch_rows(epoch_order(recipe.seed, epoch, count), place, recipe.batch_size)

        keys = ([(e, int(row)) for row in rows_of(e, place)] for e, place in steps(first, total, per_epoch))
        pin = self.device.type == "cuda"
        work = AugmentedImages(self.samples, self.preprocessing, _augmentation(recipe, self.preprocessing), recipe.seed)
        packs = self.workers.run(work, keys, pack, pin=pin)
        labels = torch.from_numpy(self.samples.labels)
        for (epoch, place), images in zip(steps(first, total, per_epoch), packs, strict=True):
            rows = torch.from_numpy(rows_of(epoch, place).copy())
            yield Batch(
                epoch, place, _send(rows, self.device), unpacked(images).to(self.device, non_blocking=pin),
                _send(labels[rows], self.device),
            )  # fmt: skip


@dataclass(frozen=True)
class AugmentedImages:
    """What a worker does for (epoch, row): uint8 pixels (H, W, C), or the reason why there are none."""

    samples: Samples
    preprocessing: Preprocessing
    augment: ImageAugment | None
    seed: int

    def __getitem__(self, key: tuple[int, int]) -> NDArray[np.uint8] | DataError:
        epoch, row = key
        try:
            image = self.samples.image(row)
        except DataError as error:
            return error
        if self.augment is None:
            return self.preprocessing.fit(image)
        if not self.augment.area:
            pixels = self.preprocessing.fit(image)
            image = Image.fromarray(pixels[..., 0] if self.preprocessing.channels == 1 else pixels)
        augmented = np.asarray(self.augment(image, image_rng(self.seed, epoch, row)), np.uint8)
        return augmented.reshape(*augmented.shape[:2], self.preprocessing.channels)


def open_feed(
    samples: Samples, recipe: Recipe, preprocessing: Preprocessing, workers: Workers, device: torch.device
) -> Feed:
    """Resident where the decoded images fit and nothing has to be done to each by itself; streamed otherwise.

    Raises:
        DataError: an image that is decoded now cannot be read.
    """
    if _augmentation(recipe, preprocessing) is None:
        samples = resident(samples)
        if isinstance(samples, Split):
            images = torch.from_numpy(np.require(samples.images, requirements=["C", "W"]))
            return ResidentFeed(images.to(device), torch.from_numpy(samples.labels).to(device), recipe)
    return StreamedFeed(samples, recipe, preprocessing, workers, device)


def resident(samples: Samples) -> Samples:
    """Decoded in memory where they fit."""
    if isinstance(samples, StreamedSplit) and samples.decoded_bytes <= RESIDENT_BYTES:
        return samples.decoded()
    return samples


def _send(values: Tensor, device: torch.device) -> Tensor:
    """``values`` on the device, and nobody waits: a GPU fetches them from page-locked memory when it gets to it."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def _augmentation(recipe: Recipe, preprocessing: Preprocessing) -> ImageAugment | None:
    """What has to be done to each image by itself, before it is in a batch."""
    if not (recipe.crop_area or recipe.color_jitter or recipe.randaugment):
        return None
    return ImageAugment(
        size=preprocessing.image_size, area=recipe.crop_area, interpolation=preprocessing.interpolation,
        color_jitter=recipe.color_jitter, randaugment=recipe.randaugment, fill=preprocessing.fill,
    )  # fmt: skip
