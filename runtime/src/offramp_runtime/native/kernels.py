"""The loops that convolutions are computed in, as C."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from offramp_runtime.native.blocks import Cut
from offramp_runtime.native.planes import Plane
from offramp_runtime.native.steps import BYTES

Offsets: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Words:
    """What a convolution reads and writes."""

    lanes: int
    """Of a vector."""
    reads: int
    """Channels of a word of the input, …"""
    writes: int
    """… and of the output; 4 are bytes."""

    @property
    def plus(self) -> str:
        """What adds products to sums, which of bytes are integers."""
        return "plus_bytes" if self.reads == BYTES else "plus"

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

    def text(self, name: str) -> str:
        """The function."""
        lanes, plus = self.words.lanes, self.words.plus
        sums = [[f"a{m}_{n}" for n in range(self.columns)] for m in range(self.channels)]
        read = [f"x{n}" for n in range(self.columns)]
        lines = [f"vector {', '.join(f'{one} = all(bias + {m})' for one in row)};" for m, row in enumerate(sums)]
        lines.append(f"for (long c = 0; c < planes; c++, in += {self.between}) {{")
        for tap in self.taps:
            loads = ", ".join(f"{x} = load(in + ({tap + n * lanes}))" for n, x in enumerate(read))
            lines.append(f"    {{ vector {loads}, y;")
            for m, row in enumerate(sums):
                adds = (f"{one} = {plus}({one}, {x}, y);" for one, x in zip(row, read, strict=True))
                lines.append(f"      y = all(w + {m}); {' '.join(adds)}")
            lines.append(f"      w += {self.channels}; }}")
        lines += ["}", *self._stores(sums)]
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
    pitch: int | None
    """… and of the output; None for logits, which are floats one behind the other."""
    words: Words
    relu: bool

    def text(self, name: str) -> str:
        """The function."""
        lanes, plus = self.words.lanes, self.words.plus
        sums = [[f"a{m}_{n}" for n in range(self.columns)] for m in range(len(self.read))]
        factors = [f"y{n}" for n in range(self.columns)]
        starts = [f"load(bias + {n * lanes})" for n in range(self.columns)]
        lines = [f"vector {', '.join(f'{a} = {b}' for a, b in zip(row, starts, strict=True))};" for row in sums]
        lines.append(f"for (long c = 0; c < planes; c++, in += {self.between}) {{")
        for tap in self.taps:
            loads = ", ".join(f"{y} = load(w + {n * lanes})" for n, y in enumerate(factors))
            lines.append(f"    {{ vector {loads}, x;")
            for row, place in zip(sums, self.read, strict=True):
                adds = (f"{one} = {plus}({one}, x, {y});" for one, y in zip(row, factors, strict=True))
                lines.append(f"      x = all(in + ({place + tap})); {' '.join(adds)}")
            lines.append(f"      w += {self.columns * lanes}; }}")
        lines += ["}", *self._stores(sums)]
        given = "const float *in, const float *w, const float *bias, const float *scales, float *out"
        return _function(name, f"{given}, long planes, long channels", lines)

    def _stores(self, sums: list[list[str]]) -> Iterator[str]:
        lanes, packed = self.words.lanes, self.words.writes
        for row, place in zip(sums, self.written, strict=True):
            for n, one in enumerate(row):
                value = self.words.value(one, f"load(scales + {n * lanes})", self.relu)
                there = f"channels - {n * lanes}"
                if self.pitch is None:
                    yield f"scatter_floats(out + {n * lanes}, {value}, {there});"
                else:
                    yield f"scatter{packed}(out + {n * lanes // packed * self.pitch + place}, {value}, {self.pitch}, {there});"


def window(size: int, stride: int, plane: Plane) -> Offsets:
    """From a pixel of an output to what its window reads, in the input of stride 1, or the split input of stride 2."""
    reach = range(-(size // 2), size // 2 + 1)
    if stride == 1:
        return tuple(plane.at(y, x) for y in reach for x in reach)
    return tuple((2 * (y % 2) + x % 2) * plane.pitch + plane.at(y // 2, x // 2) for y in reach for x in reach)


def pixels(count: int, width: int, row: int, column: int) -> Offsets:
    """From the first of so many pixels of a map to each of them."""
    return tuple(n // width * row + n % width * column for n in range(count))


def cases(cut: Cut, name: str, factor: int = 1) -> Iterator[tuple[int, str]]:
    """The sizes of parts that occur, and when, in C; ``name`` is the number of the part, times ``factor``."""
    if cut.whole:
        yield cut.size, f"{name} < {cut.whole * factor}"
    if cut.rest:
        yield cut.rest, f"{name} == {cut.whole * factor}"


def _function(name: str, given: str, lines: list[str]) -> str:
    return f"\nstatic void {name}({given}) {{\n" + "".join(f"    {line}\n" for line in lines) + "}\n"
