"""Images that stay encoded and are decoded by worker processes when they are needed."""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from offramp.data.holdout import Rows
from offramp.data.preprocess import Preprocessing, open_image
from offramp.data.source import Split
from offramp.data.workers import Workers
from offramp.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_PREVIEW = Preprocessing(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Stands in until a model says what it wants."""


class Encoded(Protocol):
    """A row of encoded images; it must survive pickling."""

    def __len__(self) -> int: ...

    def take(self, rows: Rows) -> Self:
        """The images ``rows``, in that order."""
        ...

    def name(self, row: int) -> str:
        """What errors call the image."""
        ...

    def data(self, row: int) -> bytes:
        """The encoded image."""
        ...

    def open(self, row: int) -> Image.Image:
        """One decoded image.

        Raises:
            DataError: it cannot be read.
        """
        ...

    def listing(self) -> bytes:
        """The names, where the images have any."""
        ...


@dataclass(frozen=True, eq=False)
class Files:
    """Image files below a folder."""

    root: Path
    names: NDArray[np.bytes_]
    """Relative to ``root``, as the file system spells them, (N,). One array, not a million objects: workers share it."""

    @classmethod
    def of(cls, root: Path, names: list[str]) -> "Files":
        """From relative names."""
        return cls(root, np.array([os.fsencode(name) for name in names], dtype=np.bytes_))

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: Rows) -> "Files":
        """The files ``rows``."""
        return Files(self.root, self.names[rows])

    def name(self, row: int) -> str:
        """The path."""
        return str(self.root / os.fsdecode(bytes(self.names[row])))

    def data(self, row: int) -> bytes:
        """What is in the file."""
        return Path(self.name(row)).read_bytes()

    def open(self, row: int) -> Image.Image:
        """One decoded image."""
        return open_image(Path(self.name(row)))

    def listing(self) -> bytes:
        """All names in order."""
        return b"\n".join(self.names.tolist())


@dataclass(frozen=True, eq=False)
class Cells:
    """Images inside Parquet files, kept in memory as they are encoded."""

    table: str
    """For errors."""
    column: "pa.ChunkedArray"
    """Structs of ``bytes``."""
    rows: Rows | None = None
    """Which cells, in which order; None takes all. The cells themselves are never copied."""

    def __len__(self) -> int:
        return len(self.column) if self.rows is None else len(self.rows)

    def take(self, rows: Rows) -> "Cells":
        """The images ``rows``."""
        return replace(self, rows=rows if self.rows is None else self.rows[rows])

    def name(self, row: int) -> str:
        """Table and row in it."""
        return f"{self.table}, image {self._place(row)}"

    def data(self, row: int) -> bytes:
        """The bytes of the cell, empty where it has none."""
        cell = self.column[self._place(row)].as_py()
        data = cell.get("bytes") if isinstance(cell, dict) else None
        return data if isinstance(data, bytes) else b""

    def open(self, row: int) -> Image.Image:
        """One decoded image."""
        return open_image(Path(self.name(row)), io.BytesIO(self.data(row)))

    def listing(self) -> bytes:
        """Nothing: images in tables have no names of their own."""
        return b""

    def _place(self, row: int) -> int:
        return row if self.rows is None else int(self.rows[row])


@dataclass(frozen=True, eq=False)
class StreamedSplit:
    """Encoded images with their labels."""

    encoded: Encoded
    labels: NDArray[np.int64]
    """(N,)."""
    preprocessing: Preprocessing = _PREVIEW
    workers: Workers = field(default_factory=Workers)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Rows) -> "StreamedSplit":
        """The samples ``rows``, in that order."""
        return replace(self, encoded=self.encoded.take(rows), labels=self.labels[rows])

    def prepared(self, preprocessing: Preprocessing, workers: Workers) -> "StreamedSplit":
        """For a model with this preprocessing."""
        return replace(self, preprocessing=preprocessing, workers=workers)

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """Decoded by the workers, a few batches ahead.

        Raises:
            DataError: an image cannot be read.
        """
        keys = (list(range(first, min(first + size, len(self)))) for first in range(0, len(self), size))
        for batch in self.workers.run(Decode(self.encoded, self.preprocessing), keys, pack):
            yield unpacked(batch).numpy()

    def ten_crops(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """Ten crops of each image, uint8 (n, 10, H, W, C), see :meth:`Preprocessing.ten_crops`."""
        keys = (list(range(first, min(first + size, len(self)))) for first in range(0, len(self), size))
        for batch in self.workers.run(Decode(self.encoded, self.preprocessing, crops=True), keys, pack):
            yield unpacked(batch).numpy()

    def image(self, row: int) -> Image.Image:
        """One whole image, upright."""
        return self.preprocessing.upright(self.encoded.open(row))

    def listing(self) -> bytes:
        """The names of the files."""
        return self.encoded.listing()

    @property
    def decoded_bytes(self) -> int:
        """Memory all images would take as the model sees them."""
        return len(self) * self.preprocessing.image_size**2 * self.preprocessing.channels

    def decoded(self) -> Split:
        """All images in memory."""
        size, channels = self.preprocessing.image_size, self.preprocessing.channels
        images = np.empty((len(self), size, size, channels), np.uint8)
        done = 0
        for batch in self.batches(256):
            images[done : done + len(batch)] = batch
            done += len(batch)
        return Split(images, self.labels)


@dataclass(frozen=True)
class Decode:
    """What a worker does for a row: uint8 pixels (H, W, C), or the reason why there are none."""

    encoded: Encoded
    preprocessing: Preprocessing
    crops: bool = False

    def __getitem__(self, row: int) -> NDArray[np.uint8] | DataError:
        try:
            image = self.encoded.open(row)
            return self.preprocessing.ten_crops(image) if self.crops else self.preprocessing.fit(image)
        except DataError as error:
            return error


def pack(images: list[NDArray[np.uint8] | DataError]) -> Tensor | DataError:
    """One tensor of a batch; an error is handed over as a value, or the worker would wrap it in its traceback."""
    errors = [image for image in images if isinstance(image, DataError)]
    return errors[0] if errors else torch.from_numpy(np.stack(images))  # type: ignore[arg-type]


def unpacked(batch: Tensor | DataError) -> Tensor:
    """The tensor; or the error is raised."""
    if isinstance(batch, DataError):
        raise batch
    return batch
