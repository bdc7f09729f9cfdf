"""The loops that convolutions are computed in, as C."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from offramp_runtime.native.blocks import Cut, Vectors
from offramp_runtime.native.planes import Plane

Offsets: TypeAlias = tuple[int, ...]


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
    vectors: Vectors
    relu: bool

    def text(self, name: str) -> str:
        """The function."""
        sums = [[f"a{m}_{n}" for n in range(self.columns)] for m in range(self.channels)]
        read = [f"x{n}" for n in range(self.columns)]
        lines = [f"vector {', '.join(f'{one} = all(bias + {m})' for one in row)};" for m, row in enumerate(sums)]
        lines.append(f"for (long c = 0; c < planes; c++, in += {self.between}) {{")
        for tap in self.taps:
            loads = ", ".join(f"{x} = load(in + ({tap + n * self.vectors.lanes}))" for n, x in enumerate(read))
            lines.append(f"    {{ vector {loads}, y;")
            lines += [f"      y = all(w + {m}); {_adds(row, read, 'y')}" for m, row in enumerate(sums)]
            lines.append(f"      w += {self.channels}; }}")
        lines += ["}", *self._stores(sums)]
        given = "const float *in, const float *w, const float *bias, float *out, const int32_t *pixels, long planes"
        return _function(name, given, lines)

    def _stores(self, sums: list[list[str]]) -> Iterator[str]:
        packed, lanes = self.vectors.packed, self.vectors.lanes
        for plane in range(self.channels // packed):
            for n, several in enumerate(zip(*sums[plane * packed : (plane + 1) * packed], strict=True)):
                values = [f"relu({one})" if self.relu else one for one in several]
                whole = values[0] if packed == 1 else f"pair({', '.join(values)})"
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
    vectors: Vectors
    relu: bool

    def text(self, name: str) -> str:
        """The function."""
        lanes = self.vectors.lanes
        sums = [[f"a{m}_{n}" for n in range(self.columns)] for m in range(len(self.read))]
        factors = [f"y{n}" for n in range(self.columns)]
        starts = [f"load(bias + {n * lanes})" for n in range(self.columns)]
        lines = [f"vector {', '.join(f'{a} = {b}' for a, b in zip(row, starts, strict=True))};" for row in sums]
        lines.append(f"for (long c = 0; c < planes; c++, in += {self.between}) {{")
        for tap in self.taps:
            loads = ", ".join(f"{y} = load(w + {n * lanes})" for n, y in enumerate(factors))
            lines.append(f"    {{ vector {loads}, x;")
            for row, place in zip(sums, self.read, strict=True):
                lines.append(f"      x = all(in + ({place + tap})); {_adds(row, factors, 'x')}")
            lines.append(f"      w += {self.columns * lanes}; }}")
        lines += ["}", *self._stores(sums)]
        given = "const float *in, const float *w, const float *bias, float *out, long planes, long channels"
        return _function(name, given, lines)

    def _stores(self, sums: list[list[str]]) -> Iterator[str]:
        lanes, packed = self.vectors.lanes, self.vectors.packed
        for row, place in zip(sums, self.written, strict=True):
            for n, one in enumerate(row):
                value, there = f"relu({one})" if self.relu else one, f"channels - {n * lanes}"
                if self.pitch is None:
                    yield f"scatter_floats(out + {n * lanes}, {value}, {there});"
                else:
                    yield f"scatter(out + {n * lanes // packed * self.pitch + place}, {value}, {self.pitch}, {there});"


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


def _adds(sums: list[str], factors: list[str], other: str) -> str:
    return " ".join(f"{one} = plus({one}, {factor}, {other});" for one, factor in zip(sums, factors, strict=True))


def _function(name: str, given: str, lines: list[str]) -> str:
    return f"\nstatic void {name}({given}) {{\n" + "".join(f"    {line}\n" for line in lines) + "}\n"
