"""Looking at every image of a data set before anyone waits for a training."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.data.preprocess import Preprocessing
from offramp.data.source import Samples
from offramp.data.streamed import Encoded, StreamedSplit
from offramp.data.workers import Workers
from offramp.errors import DataError

Report = Callable[[int], None]

_BATCH = 64
_COLOUR = Preprocessing(1, (0.5,) * 3, (0.5,) * 3)
"""Turns images upright and converts them, as any model's does; the rest of it is not used."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was seen of one image."""

    row: int
    name: str
    size: tuple[int, int] = (0, 0)
    """Width and height in pixels, upright."""
    mode: str = ""
    """Pillow's colour mode, as stored."""
    digest: bytes = b""
    """SHA-256 of the encoded bytes, or of the pixels where they are all there is; equal for exact duplicates."""
    problem: str = ""
    """Why it cannot be read; empty where it can."""


@dataclass(frozen=True, eq=False)
class Scanned:
    """The images of one part."""

    labels: NDArray[np.int64]
    """(N,)."""
    findings: list[Finding]
    """In the order of the labels."""

    @cached_property
    def readable(self) -> list[Finding]:
        """Those that can be decoded."""
        return [finding for finding in self.findings if not finding.problem]

    @cached_property
    def unreadable(self) -> list[Finding]:
        """The others."""
        return [finding for finding in self.findings if finding.problem]

    def per_class(self, classes: int) -> list[int]:
        """Readable images of each class, (C,)."""
        rows = [finding.row for finding in self.readable]
        counts: list[int] = np.bincount(self.labels[rows], minlength=classes).tolist()
        return counts

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Width and height of the images with the fewest and the most pixels, and the median of each; empty without any."""
        sizes = [finding.size for finding in self.readable]
        if not sizes:
            return {}
        smallest, largest = (pick(sizes, key=lambda size: size[0] * size[1]) for pick in (min, max))
        width, height = (int(value) for value in np.median(sizes, axis=0))
        return {"smallest": smallest, "median": (width, height), "largest": largest}

    def modes(self) -> dict[str, int]:
        """Readable images of each colour mode, the commonest first."""
        return dict(Counter(finding.mode for finding in self.readable).most_common())


@dataclass(frozen=True)
class Inspect:
    """What a worker does for a row: decode it whole, as a training would."""

    encoded: Encoded

    def __getitem__(self, row: int) -> Finding:
        name = self.encoded.name(row)
        try:
            with warnings.catch_warnings(action="ignore"):  # about what Pillow reads all the same
                image = self.encoded.open(row)
                size = _COLOUR.upright(image).size
            digest = hashlib.sha256(self.encoded.data(row)).digest()
        except (DataError, OSError) as error:
            return Finding(row, name, problem=str(error))
        return Finding(row, name, size, image.mode, digest)


def scan(samples: Samples, workers: Workers, report: Report | None = None) -> list[Finding]:
    """Every image looked at once, in order.

    Args:
        samples: encoded ones are decoded for it; a set that lies in memory has been decoded already.
        workers: processes that decode.
        report: told how many are done.
    """
    found: list[Finding] = []
    batches = _encoded(samples.encoded, workers) if isinstance(samples, StreamedSplit) else _in_memory(samples)
    for batch in batches:
        found += batch
        if report is not None:
            report(len(found))
    return found


def _encoded(encoded: Encoded, workers: Workers) -> Iterator[list[Finding]]:
    return workers.run(Inspect(encoded), _rows(len(encoded)), list)


def _in_memory(samples: Samples) -> Iterator[list[Finding]]:
    for rows in _rows(len(samples)):
        yield [_decoded(row, samples.image(row)) for row in rows]


def _decoded(row: int, image: Image.Image) -> Finding:
    return Finding(row, f"image {row}", image.size, image.mode, hashlib.sha256(image.tobytes()).digest())


def _rows(count: int) -> Iterator[list[int]]:
    return (list(range(first, min(first + _BATCH, count))) for first in range(0, count, _BATCH))


def without_unreadable(
    samples: Samples,
    workers: Workers,
    tell: Callable[[list[Finding]], None],
    report: Report | None = None,
) -> Samples:
    """The samples that can be read; ``tell`` gets the others, if there are any.

    Data sets that are decoded as a whole have been read already and are returned as they are.
    """
    if not isinstance(samples, StreamedSplit):
        return samples
    unreadable = [finding for finding in scan(samples, workers, report) if finding.problem]
    if not unreadable:
        return samples
    tell(unreadable)
    return samples.take(np.setdiff1d(np.arange(len(samples)), [finding.row for finding in unreadable]))
