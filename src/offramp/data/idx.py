"""Data sets in IDX files: MNIST (Y. LeCun et al., 1998) and Fashion-MNIST (H. Xiao et al., arXiv:1708.07747).

Each lives in ``data_root/NAME`` or its sub-folder ``raw``, or else in ``data_root`` itself, as the four published files, plain
or compressed with gzip. Where both are there the compressed one is read: it is the one that can be fetched anew.

Images keep their 28x28 pixels: a network of three scales takes any side of four pixels and more.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offramp.data.preprocess import Preprocessing
from offramp.data.source import Part, SourceSpec, Split
from offramp.errors import DataError

_STEMS: dict[Part, str] = {"train": "train", "test": "t10k"}
_UINT8 = 0x08
"""The code of the only type these files hold; it stands in the third byte, the number of axes in the fourth."""


def has_idx(folder: Path) -> bool:
    """Whether IDX files are in ``folder`` or its sub-folder ``raw``."""
    return any(any(place.glob("*-ubyte*")) for place in (folder, folder / "raw"))


_LARGEST = 1 << 28
"""Bytes that are read of a file at most: five times what the sets have. A compressed one could be made to hold any number."""


def read_idx(path: Path, axes: int, remedy: str) -> NDArray[np.uint8]:
    """The array in an IDX file of bytes, decompressed if its name ends in ``.gz``.

    Args:
        path: the file.
        axes: how many the array must have.
        remedy: what errors advise.

    Raises:
        DataError: unreadable, of another type or number of axes, truncated, or longer than its header says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(_LARGEST)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); {remedy}") from None
    wanted = bytes((0, 0, _UINT8, axes))
    if data[:4] != wanted:
        raise DataError(
            f"{path}: starts with {data[:4].hex() or 'nothing'}, an IDX file of bytes with {axes} axes with {wanted.hex()}; "
            f"{remedy}"
        )
    start = 4 + 4 * axes
    shape = tuple(int.from_bytes(data[first : first + 4], "big") for first in range(4, start, 4))
    size = start + math.prod(shape)
    if len(data) < start or len(data) != size:
        said = f"its header {shape} wants {size}" if len(data) >= start else f"its header alone has {start}"
        raise DataError(f"{path}: has {len(data)} bytes, {said}; the copy is damaged, {remedy}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()


def _place(root: Path, name: str, title: str, part: Part) -> Path:
    known = f"{_STEMS[part]}-images-idx3-ubyte"
    folders = [root / name, root]
    if root.name in SOURCES and root.name != name:  # nothing in the files would tell that it is the other set
        folders = [root / name]
    for folder in folders:
        for place in (folder, folder / "raw"):
            if any((place / f"{known}{ending}").is_file() for ending in ("", ".gz")):
                return place
    raise DataError(
        f"{root / name}: no {known} there nor in raw/, with or without .gz; check --data-root, "
        f"or get {title}: {_fetch(root, name)}"
    )


def _file(place: Path, name: str, remedy: str) -> Path:
    for path in (place / f"{name}.gz", place / name):
        if path.is_file():
            return path
    raise DataError(f"{place}: no {name} there, with or without .gz; {remedy}")


def _fetch(root: Path, name: str) -> str:
    return f"offramp data fetch {name} --data-root {root}"


def _source(name: str, title: str, classes: tuple[str, ...], mean: float, std: float) -> SourceSpec:
    def read(root: Path | None, part: Part) -> Split:
        root = root or Path()
        remedy = f"get it anew: {_fetch(root, name)}"
        place, stem = _place(root, name, title, part), _STEMS[part]
        pixels, digits = (_file(place, f"{stem}-{kind}-ubyte", remedy) for kind in ("images-idx3", "labels-idx1"))
        images, labels = read_idx(pixels, 3, remedy), read_idx(digits, 1, remedy)
        if len(images) == 0 or images.shape[1:] != (28, 28):
            shape = "x".join(map(str, images.shape[1:]))
            raise DataError(f"{pixels}: {len(images)} images of {shape} pixels, wanted 28x28; {remedy}")
        if len(labels) != len(images):
            raise DataError(f"{digits}: {len(labels)} labels, and {pixels.name} has {len(images)} images; {remedy}")
        if labels.max() >= len(classes):
            raise DataError(
                f"{digits}: label {labels.max()}: must lie in 0 … {len(classes) - 1}; is it {title}? {remedy}"
            )
        return Split(images[..., None], labels.astype(np.int64))

    return SourceSpec(name, classes, Preprocessing(28, (mean,), (std,)), holdout=5000, needs_root=True, read=read)


_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

SOURCES = {
    "mnist": _source("mnist", "MNIST", tuple("0123456789"), 0.1307, 0.3081),
    "fashion-mnist": _source("fashion-mnist", "Fashion-MNIST", _CLOTHES, 0.2860, 0.3530),
}
