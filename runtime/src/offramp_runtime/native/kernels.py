"""The loops that convolutions are computed in, as C."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from offramp_runtime.native.blocks import Cut
from offramp_runtime.native.planes import Plane
from offramp_runtime.native.steps import BYTES

Offsets: TypeAlias = tuple[int, ...]
_LINE = 16
"""Words that come from memory together."""
_WEIGHTS_AHEAD = 1024
"""Words between the weights that are multiplied and those that are fetched, …"""
_PLANES_AHEAD = 8
"""… and planes of the input: CPUs foresee less, and nothing beyond a page (as tried on a Xeon)."""


@dataclass(frozen=True)
class Words:
    """What a convolution reads and writes."""

    lanes: int
    """Of a vector."""
    reads: int
    """Channels of a word of the input, …"""
    writes: int
    """… and of the output; 4 are bytes."""

    def add(self, sums: str, x: str, y: str) -> str:
        """What adds products of values x and weights y to sums, which of bytes are integers."""
        return f"{sums} = {'plus_bytes' if self.reads == BYTES else 'plus'}({sums}, {x}, {y});"

    def add_weights(self, sums: str, y: str, x: str) -> str:
        """The same, weights first."""
        return self.add(sums, x, y)

    def value(self, sums: str, scales: str, relu: bool) -> str:
        """What becomes of sums before they are written."""
        found = f"numbers({sums})" if self.reads == BYTES else sums
        if BYTES in (self.reads, self.writes):
            found = f"{found} * {scales}"
        return f"relu({found})" if relu else found


@dataclass(frozen=True)
class PixelKernel:
    """Some output channels of some vectors of pixels; every product is a weight, broadcast, with a vector of pixels."""

    channels: int
    columns: int
    """Vectors of pixels."""
    taps: Offsets
    """From a pixel to those its window reads."""
    between: int
    """Words from one plane of the input to the next, …"""
    pitch: int
    """… and of the output."""
    words: Words
    relu: bool
    far: bool
    """Whether the input is worth fetching before it is read."""

    def text(self, name: str) -> str:
        """The function."""
        lanes = range(0, self.columns * self.words.lanes, self.words.lanes)
        sums = _sums(self.channels, self.columns)
        lines = [f"vector {', '.join(f'{one} = all(bias + {m})' for one in row)};" for m, row in enumerate(sums)]
        factors = [f"w + {m}" for m in range(self.channels)]
        taps = [_products(sums, [f"in + ({tap + n})" for n in lanes], factors, self.words.add) for tap in self.taps]
        fetched = [f"in + {_PLANES_AHEAD * self.between + n}" for n in lanes] if self.far else []
        lines += [*_loop(taps, self.between, self.channels, fetched), *self._stores(sums)]
        given = "const float *in, const float *w, const float *bias, const float *scales, float *out"
        return _function(name, f"{given}, const int32_t *pixels, long planes", lines)

    def _stores(self, sums: list[list[str]]) -> Iterator[str]:
        packed, lanes = self.words.writes, self.words.lanes
        for plane in range(self.channels // packed):
            channels = range(plane * packed, (plane + 1) * packed)
            for n in range(self.columns):
                values = [self.words.value(sums[m][n], f"all(scales + {m})", self.relu) for m in channels]
                whole = values[0] if packed == 1 else f"join{packed}({', '.join(values)})"
                yield f"store(out + {plane * self.pitch + n * lanes}, only({whole}, pixels + {n * lanes}));"


@dataclass(frozen=True)
class ChannelKernel:
    """Some vectors of output channels of some pixels; every product is a pixel, broadcast, with a vector of weights."""

    columns: int
    """Vectors of channels."""
    read: Offsets
    """Where the windows of the pixels lie, …"""
    written: Offsets
    """… and the pixels they give."""
    taps: Offsets
    """From the middle of a window to what it reads."""
    between: int
    """Words from one plane of the input to the next, …"""
    pitch: int
    """… and of the output."""
    words: Words
    relu: bool

    def text(self, name: str) -> str:
        """The function."""
        lanes = range(0, self.columns * self.words.lanes, self.words.lanes)
        sums = _sums(len(self.read), self.columns)
        starts = [f"load(bias + {n})" for n in lanes]
        lines = [f"vector {', '.join(f'{a} = {b}' for a, b in zip(row, starts, strict=True))};" for row in sums]
        weights = [f"w + {n}" for n in lanes]
        taps = [
            _products(sums, weights, [f"in + ({place + tap})" for place in self.read], self.words.add_weights)
            for tap in self.taps
        ]
        lines += [*_loop(taps, self.between, self.columns * self.words.lanes), *self._stores(sums)]
        given = "const float *in, const float *w, const float *bias, const float *scales, float *out"
        return _function(name, f"{given}, long planes, long channels", lines)

    def _stores(self, sums: list[list[str]]) -> Iterator[str]:
        lanes, packed = self.words.lanes, self.words.writes
        for row, place in zip(sums, self.written, strict=True):
            for n, one in enumerate(row):
                value = self.words.value(one, f"load(scales + {n * lanes})", self.relu)
                plane = n * lanes // packed * self.pitch
                yield f"scatter{packed}(out + {plane + place}, {value}, {self.pitch}, channels - {n * lanes});"


def window(rows: int, columns: int, stride: int, plane: Plane) -> Offsets:
    """From a pixel of an output to what its window reads, in the input of stride 1, or the split input of stride 2."""
    reach = [(y, x) for y in _around(rows) for x in _around(columns)]
    if stride == 1:
        return tuple(plane.at(y, x) for y, x in reach)
    return tuple((2 * (y % 2) + x % 2) * plane.pitch + plane.at(y // 2, x // 2) for y, x in reach)


def _around(size: int) -> range:
    return range(-(size // 2), size // 2 + 1)


def pixels(count: int, width: int, row: int, column: int) -> Offsets:
    """From the first of so many pixels of a map to each of them."""
    return tuple(n // width * row + n % width * column for n in range(count))


def cases(cut: Cut, name: str, factor: int = 1) -> Iterator[tuple[int, str]]:
    """The sizes of parts that occur, and when, in C; ``name`` is the number of the part, times ``factor``."""
    if cut.whole:
        yield cut.size, f"{name} < {cut.whole * factor}"
    if cut.rest:
        yield cut.rest, f"{name} == {cut.whole * factor}"


def _sums(rows: int, columns: int) -> list[list[str]]:
    return [[f"a{m}_{n}" for n in range(columns)] for m in range(rows)]


def _products(
    sums: list[list[str]], vectors: list[str], words: list[str], add: Callable[[str, str, str], str]
) -> list[str]:
    """What adds the product of every vector with every word, given where they lie, to the sum in its row and column."""
    loads = ", ".join(f"x{n} = load({place})" for n, place in enumerate(vectors))
    lines = [f"vector {loads}, y;"]
    for row, place in zip(sums, words, strict=True):
        adds = " ".join(add(one, f"x{n}", "y") for n, one in enumerate(row))
        lines.append(f"y = all({place}); {adds}")
    return lines


def _loop(taps: list[list[str]], between: int, weights: int, fetched: Sequence[str] = ()) -> Iterator[str]:
    """Over the planes of the input, so many words apart; a tap takes so many words of weights.

    Fetched is what a later plane is read at.
    """
    yield f"for (long c = 0; c < planes; c++, in += {between}) {{"
    yield from (f"    __builtin_prefetch({place});" for place in fetched)
    for number, (first, *others) in enumerate(taps):
        yield f"    {{ {first}"
        yield from (f"      {line}" for line in others)
        # Each line once: those that begin, counted from the first tap, among the weights of this one.
        yield from (
            f"      __builtin_prefetch(w + {_WEIGHTS_AHEAD + n});"
            for n in range(-number * weights % _LINE, weights, _LINE)
        )
        yield f"      w += {weights}; }}"
    yield "}"


def _function(name: str, given: str, lines: list[str]) -> str:
    return f"\nstatic void {name}({given}) {{\n" + "".join(f"    {line}\n" for line in lines) + "}\n"
