"""Data sets with three disjoint splits."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from offramp.data.preprocess import Preprocessing
from offramp.errors import DataError

SplitName = Literal["train", "calibrate", "test"]


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

    def take(self, rows: NDArray[np.int64]) -> "Split":
        """The samples ``rows``, in that order."""
        return Split(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class SourceSpec:
    """How to read one data set; entries of ``SOURCES`` in the modules of this package."""

    name: str
    classes: tuple[str, ...]
    """Class names, (C,)."""
    preprocessing: Preprocessing
    holdout: int
    """Training images set aside for the calibrate split."""
    needs_root: bool
    """Whether it lives in a folder the user has to name."""
    read: Callable[[Path | None, Literal["train", "test"]], Split]
    """(data root, official part) → images."""

    def open(self, data_root: Path | None = None, seed: int = 0) -> "Source":
        """The data set under ``data_root``, its hold-out drawn with ``seed``. Images are read when first asked for."""
        if self.needs_root and data_root is None:
            raise DataError(
                f"data set '{self.name}' lives in a folder of yours; name the one above it with --data-root"
            )
        return Source(self, data_root, seed)


class Source:
    """A data set: ``train`` and ``calibrate`` are cut from its training part by seed, ``test`` is its own.

    Calibrate and test are never augmented and never overlap with train.
    """

    def __init__(self, spec: SourceSpec, data_root: Path | None, seed: int) -> None:
        self.spec = spec
        self.seed = seed
        self._root = data_root

    @property
    def name(self) -> str:
        """Catalog name."""
        return self.spec.name

    @property
    def preprocessing(self) -> Preprocessing:
        """Statistics of the training images and the size they have."""
        return self.spec.preprocessing

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, (C,)."""
        return self.spec.classes

    def split(self, name: SplitName) -> Split:
        """The images of one split."""
        if name == "test":
            return self._test_part
        rows = self.calibrate_indices if name == "calibrate" else self._order[: -self.spec.holdout]
        return self._training_part.take(rows)

    @property
    def calibrate_indices(self) -> NDArray[np.int64]:
        """Which images of the training part are held out, (N,), sorted."""
        return np.sort(self._order[-self.spec.holdout :])

    @property
    def holdout_digest(self) -> str:
        """SHA-256 of the held-out indices."""
        return hashlib.sha256(self.calibrate_indices.tobytes()).hexdigest()

    @cached_property
    def _training_part(self) -> Split:
        split = self.spec.read(self._root, "train")
        if len(split) <= self.spec.holdout:
            raise DataError(
                f"data set '{self.name}' has {len(split)} training images, its hold-out wants {self.spec.holdout}; "
                "the copy is incomplete"
            )
        return split

    @cached_property
    def _test_part(self) -> Split:
        return self.spec.read(self._root, "test")

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.random.default_rng(self.seed).permutation(len(self._training_part)).astype(np.int64)
