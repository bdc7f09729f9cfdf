"""Data sets with three disjoint splits."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.data.holdout import Holdout, Rows
from offramp.data.preprocess import Preprocessing
from offramp.data.workers import Workers
from offramp.errors import DataError

SplitName = Literal["train", "calibrate", "test"]
Part = Literal["train", "test"]


class Samples(Protocol):
    """Images with their labels: decoded in memory (:class:`Split`), or read when they are needed."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,)."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: Rows) -> Self:
        """The samples ``rows``, in that order."""
        ...

    def prepared(self, preprocessing: Preprocessing, workers: Workers) -> Self:
        """The same samples for a model with this preprocessing."""
        ...

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """All images in order as the model sees them, uint8 (n, H, W, C), at most ``size`` at a time."""
        ...

    def image(self, row: int) -> Image.Image:
        """One whole image, upright."""
        ...

    def listing(self) -> bytes:
        """What tells these samples from others of the same number: the names of their files, nothing for known sets."""
        ...


Sift = Callable[[Samples], Samples]
"""Takes the samples of a part as they are listed and gives those to keep."""


@dataclass(frozen=True, eq=False)
class Split:
    """Decoded images with their labels."""

    images: NDArray[np.uint8]
    """(N, H, W, C)."""
    labels: NDArray[np.int64]
    """(N,)."""

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise DataError(
                f"{len(self.images)} images and {len(self.labels)} labels: there must be one label per image"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Rows) -> "Split":
        """The samples ``rows``, in that order."""
        return Split(self.images[rows], self.labels[rows])

    def prepared(self, preprocessing: Preprocessing, workers: Workers) -> "Split":
        """Resized and converted where the model wants another size or colour mode."""
        del workers  # a set that is decoded in memory is resized in less time than workers take to start
        wanted = (preprocessing.image_size, preprocessing.image_size, preprocessing.channels)
        if self.images.shape[1:] == wanted and preprocessing.resize in (0, preprocessing.image_size):
            return self
        images = np.empty((len(self), *wanted), np.uint8)
        for row in range(len(self)):
            images[row] = preprocessing.fit(self.image(row))
        return Split(images, self.labels)

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """Slices of ``images``."""
        for first in range(0, len(self), size):
            yield self.images[first : first + size]

    def image(self, row: int) -> Image.Image:
        """One image for Pillow."""
        pixels = self.images[row]
        return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)

    def listing(self) -> bytes:
        """Nothing: the set is known by its name."""
        return b""


@dataclass(frozen=True)
class SourceSpec:
    """How to read one data set; entries of ``SOURCES`` in the modules of this package."""

    name: str
    classes: tuple[str, ...]
    """Class names, (C,)."""
    preprocessing: Preprocessing
    holdout: int
    """Training images set aside for the calibrate split unless told otherwise."""
    needs_root: bool
    """Whether it lives in a folder the user has to name."""
    read: Callable[[Path | None, Part], Samples]
    """(data root, official part) → images."""
    has_test: bool = True
    """Whether there is a test part."""

    def open(
        self,
        data_root: Path | None = None,
        holdout: Holdout | None = None,
        preprocessing: Preprocessing | None = None,
        workers: Workers | None = None,
        sift: Sift | None = None,
    ) -> "Source":
        """The data set under ``data_root``. Images are read when first asked for.

        Args:
            data_root: folder above the data set's own.
            holdout: which training images are set aside.
            preprocessing: of the model that will see them; by default the data set's own.
            workers: processes that decode.
            sift: applied to each part before anything else, to leave unreadable images out.
        """
        if self.needs_root and data_root is None:
            raise DataError(
                f"data set '{self.name}' lives in a folder of yours; name the one above it with --data-root"
            )
        spec = self.located(data_root)
        chosen = preprocessing or spec.preprocessing
        return Source(spec, data_root, holdout or Holdout(), chosen, workers or Workers(), sift)

    def located(self, data_root: Path | None) -> "SourceSpec":
        """The same data set once its place is known, which may be what names its classes."""
        del data_root
        return self


class Source:
    """A data set: ``train`` and ``calibrate`` are cut from its training part, ``test`` is its own.

    Calibrate and test are never augmented and never overlap with train.
    """

    def __init__(
        self,
        spec: SourceSpec,
        data_root: Path | None,
        holdout: Holdout,
        preprocessing: Preprocessing,
        workers: Workers,
        sift: Sift | None = None,
    ) -> None:
        self.spec = spec
        self.holdout = holdout
        self.preprocessing = preprocessing
        """What images go through: statistics and size."""
        self.workers = workers
        self._root = data_root
        self._sift = sift

    @property
    def name(self) -> str:
        """Catalog name."""
        return self.spec.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, (C,)."""
        return self.spec.classes

    def split(self, name: SplitName) -> Samples:
        """The images of one split."""
        if name == "test":
            return self._test_part
        return self._calibrate if name == "calibrate" else self._training_part.take(self._cut[0])

    @property
    def calibrate_indices(self) -> Rows:
        """Which images of the training part are held out, (N,), sorted."""
        return self._cut[1]

    @property
    def holdout_digest(self) -> str:
        """SHA-256 of the held-out indices and, for a folder of yours, of the file names they count."""
        return hashlib.sha256(self.calibrate_indices.tobytes() + self._training_part.listing()).hexdigest()

    @property
    def digest(self) -> str:
        """SHA-256 of what tells a training's data from other data: hold-out, file names, classes, labels, preparation."""
        known = json.dumps([self.name, self.classes, self.preprocessing.to_json(), self.holdout_digest])
        return hashlib.sha256(known.encode() + self._training_part.labels.tobytes()).hexdigest()

    @cached_property
    def _training_part(self) -> Samples:
        return self._read("train")

    @cached_property
    def _calibrate(self) -> Samples:
        return self._training_part.take(self.calibrate_indices)

    @cached_property
    def _test_part(self) -> Samples:
        return self._read("test")

    @cached_property
    def _cut(self) -> tuple[Rows, Rows]:
        labels = self._training_part.labels
        train, held_out = self.holdout.cut(self.name, len(labels), self.spec.holdout)
        lost = np.setdiff1d(labels, labels[train])
        if len(lost):
            raise DataError(
                f"data set '{self.name}': the hold-out takes all training images of class '{self.classes[lost[0]]}'; "
                "add images, hold out fewer, or name those to hold out with --holdout-indices"
            )
        return train, held_out

    def _read(self, part: Part) -> Samples:
        samples = self.spec.read(self._root, part)
        if self._sift is not None:
            samples = self._sift(samples)
        return samples.prepared(self.preprocessing, self.workers)
