"""Which training images are set aside for the calibrate split."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from offramp.errors import DataError

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Holdout:
    """A hold-out by seed and size, or by indices."""

    seed: int = 0
    """Of the permutation whose last images are held out."""
    size: int | None = None
    """How many images; None takes what the data set suggests."""
    indices: Rows | None = None
    """The images themselves; or an order of all training images, of which the last ``size`` are held out."""

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise DataError(f"hold-out of {self.size} images: calibration needs at least one")
        if self.indices is not None and len(self.indices) == 0:
            raise DataError("hold-out of no indices: calibration needs at least one image")

    def cut(self, name: str, count: int, suggested: int) -> tuple[Rows, Rows]:
        """Rows of the train split, in their order, and of the calibrate split, sorted.

        Args:
            name: of the data set, for errors.
            count: training images there are.
            suggested: size of the hold-out where none was given.

        Raises:
            DataError: the hold-out does not fit, or indices are out of range or given twice.
        """
        size = self.size or suggested
        if self.indices is None or len(self.indices) == count:
            if count <= size:
                raise DataError(
                    f"data set '{name}' has {count} training images, its hold-out wants {size}; "
                    "hold out fewer, or get the data set whole"
                )
            order = np.random.default_rng(self.seed).permutation(count) if self.indices is None else self.indices
            order = order.astype(np.int64)
            _check(name, order, count)
            return order[:-size], np.sort(order[-size:])
        if self.size not in (None, len(self.indices)):
            raise DataError(
                f"hold-out of {self.size} images and {len(self.indices)} indices, which are no order of all {count}; "
                "give one of the two"
            )
        _check(name, self.indices, count)
        return np.setdiff1d(np.arange(count), self.indices), np.sort(self.indices)


def _check(name: str, rows: Rows, count: int) -> None:
    if rows.min() < 0 or rows.max() >= count:
        wrong = rows.min() if rows.min() < 0 else rows.max()
        raise DataError(
            f"hold-out index {wrong}: data set '{name}' has training images 0 … {count - 1}; check the file"
        )
    values, counts = np.unique(rows, return_counts=True)
    if counts.max() > 1:
        raise DataError(
            f"hold-out index {values[counts.argmax()]} is given {counts.max()} times; name every image once, "
            "or train and calibrate could overlap"
        )


def read_indices(path: Path) -> Rows:
    """Indices from a text file (separated by white space), ``.npy``, or ``.pth`` (a tensor, as public code's index.pth).

    Raises:
        DataError: missing, of another kind, or not a row of whole numbers.
    """
    readers = {".txt": _text, ".npy": _array, ".pth": _tensor}
    if path.suffix not in readers:
        raise DataError(f"{path}: hold-out indices are read from {', '.join(readers)}; convert the file")
    try:
        found = np.asarray(readers[path.suffix](path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"{path}: cannot be read as indices ({type(error).__name__}); check the file") from None
    if found.ndim != 1 or found.dtype.kind not in "iu" or len(found) == 0:
        raise DataError(f"{path}: holds {found.dtype} of shape {found.shape}; wanted a row of whole numbers")
    return found.astype(np.int64)


def _text(path: Path) -> object:
    return np.array(path.read_text().split(), np.int64)


def _array(path: Path) -> object:
    return np.load(path, allow_pickle=False)


def _tensor(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True).numpy()
