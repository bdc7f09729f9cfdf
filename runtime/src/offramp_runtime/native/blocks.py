"""How many outputs a kernel keeps in registers at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

_WIDEST = 4
"""Vectors beside one another."""
_FEW = 4
"""Rows."""
_LATENCY = 6
"""Cycles until a sum can be added to again."""


@dataclass(frozen=True)
class Vectors:
    """Of a CPU."""

    lanes: int
    """Words of 32 bits in one."""
    registers: int
    """That sums and what they are made of may take; compilers want some for themselves."""
    packed: int = 1
    """Channels of a word that holds no bytes: 1 in float32, 2 in bfloat16."""


@dataclass(frozen=True)
class Cut:
    """A count in equal parts, and what is left over."""

    count: int
    size: int

    @property
    def whole(self) -> int:
        """Parts of that size."""
        return self.count // self.size

    @property
    def rest(self) -> int:
        """What is left."""
        return self.count % self.size

    @property
    def parts(self) -> int:
        """In all."""
        return self.whole + (self.rest > 0)


@cache
def best_cuts(channels: int, columns: int, vectors: Vectors, multiple: int) -> tuple[Cut, Cut]:
    """Of a product of so many channels (values that are broadcast) and columns (vectors), what takes the fewest cycles.

    Parts have a multiple of so many channels.
    """
    return _best(channels, range(multiple, channels + 1, multiple), columns, vectors)


@cache
def best_map_cuts(height: int, width: int, columns: int, vectors: Vectors, *, at_once: bool) -> tuple[Cut, Cut]:
    """The same with the pixels of a map as rows, in parts that all look alike: of rows of the map, or of one row.

    ``at_once``: in one part if registers suffice, so that weights are read a single time.
    """
    if at_once and _fits(height * width, 1, vectors):
        return _best(height * width, [height * width], columns, vectors)
    of_rows = [width * count for count in range(1, height + 1)]
    of_one = [width // count for count in range(2, width + 1) if width % count == 0]
    return _best(height * width, sorted({*of_one, *of_rows}), columns, vectors)


def _best(rows: int, sizes: Sequence[int], columns: int, vectors: Vectors) -> tuple[Cut, Cut]:
    possible = [
        (Cut(rows, m), Cut(columns, n))
        for m, n in product(sizes, range(1, min(columns, _WIDEST) + 1))
        if _fits(m, n, vectors)
    ]
    return min(possible, key=lambda cuts: (_cycles(*cuts), _loads(*cuts)))


def _fits(rows: int, columns: int, vectors: Vectors) -> bool:
    """Sums, the vectors of a column each, and one value that is broadcast."""
    return rows * columns + columns + 1 <= vectors.registers


def _cycles(rows: Cut, columns: Cut) -> float:
    """One a product; few rows beside several columns take longer (as tried on a Zen 4 with GCC 12), as does a sum alone."""
    return sum(
        max(m * n * (1 if m > _FEW or n == 1 else 1.4), _LATENCY) * count for m, n, count in _parts(rows, columns)
    )


def _loads(rows: Cut, columns: Cut) -> int:
    return sum((m + n) * count for m, n, count in _parts(rows, columns))


def _parts(rows: Cut, columns: Cut) -> Iterator[tuple[int, int, int]]:
    """Rows and columns of the parts that occur, and how often."""
    down, across = ([(cut.size, cut.whole), (cut.rest, 1)] for cut in (rows, columns))
    for (m, many_m), (n, many_n) in product(down, across):
        if m and n:
            yield m, n, many_m * many_n
