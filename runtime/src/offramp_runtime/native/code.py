"""A network as C."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from itertools import accumulate, product

import numpy as np
from numpy.typing import NDArray

from offramp_runtime import graph
from offramp_runtime.errors import ConfigError
from offramp_runtime.native.blocks import Vectors, best_cuts, best_map_cuts
from offramp_runtime.native.kernels import ChannelKernel, PixelKernel, Words, cases, pixels, window
from offramp_runtime.native.layers import Conv, MaxPool, Mean, Network
from offramp_runtime.native.placing import Layout, Place
from offramp_runtime.native.planes import Plane, round_up
from offramp_runtime.native.points import FromPoints, ToPoints
from offramp_runtime.native.steps import BYTES, Step
from offramp_runtime.native.words import pack, pack_bytes

_ALIGNED = 16
"""Words of a cache line."""
_NEAR = 2**16
"""Words of a map that may still be in a near cache."""
_CACHED = 2**19
"""Words of weights that are still there when they are read again."""
HEAD_BYTES = 128
"""Before the words of a memory, for its lock and how many use it."""


@dataclass(frozen=True, eq=False)
class Code:
    """What a network becomes."""

    text: str
    weights: NDArray[np.float32]
    """Words one behind the other, as the code reads them."""


def write_code(network: Network, layout: Layout, vectors: Vectors) -> Code:
    """The C of all stages and of the ways straight to each exit."""
    return _Writer(network, layout, vectors).code()


class _Writer:
    def __init__(self, network: Network, layout: Layout, vectors: Vectors) -> None:
        self._network, self._layout, self._vectors = network, layout, vectors
        self._kernels: dict[PixelKernel | ChannelKernel, str] = {}
        """Their names."""
        self._masks: dict[Plane, str] = {}
        self._weights: list[NDArray[np.float32]] = []
        self._written = 0

    def code(self) -> Code:
        """Everything."""
        steps = [self._step(number, step) for number, step in enumerate(self._layout.steps)]
        exits = range(self._network.num_exits)
        lists = [self._stage(k) for k in exits] + [self._way(k) for k in exits]
        text = self._constants() + _part("vectors.c")
        text += "".join(_mask(name, plane) for plane, name in self._masks.items())
        text += "".join(kernel.text(name) for kernel, name in self._kernels.items()) + "".join(steps)
        text += f"\nstatic step *const steps[] = {_braces(f'step{number}' for number in range(len(steps)))};\n"
        text += f"static const int order[] = {_braces(number for numbers in lists for number in numbers)};\n"
        text += f"static const int first[] = {_braces(accumulate(map(len, lists), initial=0))};\n"
        text += _part("run.c")
        return Code(text, np.concatenate(self._weights))

    def _constants(self) -> str:
        place = self._layout.places[graph.IMAGES]
        known = {
            "LANES": self._vectors.lanes,
            "PACKED": self._vectors.packed,
            "BYTES": int(bool(self._network.units)),
            "MEMORY": self._layout.memory,
            "HEAD_BYTES": HEAD_BYTES,
            "SCRATCH": self._layout.scratch,
            "CLASSES": self._network.shapes[graph.logits_name(0)][0],
            "IMAGE_CHANNELS": place.channels,
            "IMAGE_HEIGHT": place.plane.height,
            "IMAGE_WIDTH": place.plane.width,
            "IMAGE_START": place.start,
            "IMAGE_PITCH": place.plane.pitch,
            "IMAGE_ROW": place.plane.row,
        }
        return "".join(f"#define {name} {value}\n" for name, value in known.items())

    def _stage(self, k: int) -> list[int]:
        steps = enumerate(self._layout.steps)
        return [number for number, step in steps if {self._network.stages[user] for user in step.users} == {k}]

    def _way(self, k: int) -> list[int]:
        return [number for number, step in enumerate(self._layout.steps) if step.users & self._network.ways[k]]

    def _step(self, number: int, step: Step) -> str:
        source, sink = self._layout.places[step.source], self._layout.places[step.sink]
        if isinstance(step.does, ToPoints):
            body = _to_points(source, sink)
        elif isinstance(step.does, FromPoints):
            body = self._from_points(step.does, source, sink)
        elif isinstance(step.does, Conv):
            write = self._conv_of_pixels if step.over_pixels else self._conv_of_channels
            body = write(step, step.does, source, sink)
        elif isinstance(step.does, MaxPool):
            body = self._max_pool(step.does, source, sink)
        else:
            unit = self._network.units.get(step.source)
            body = _mean(source, sink, unit) if isinstance(step.does, Mean) else _split(source, sink)
        given = "float *memory, float *scratch, float *logits, const float *weights, long part, long parts"
        ends = [f"const float *in = {source.area} + {source.start};", f"float *out = {sink.area} + {sink.start};"]
        return f"\nstatic void step{number}({given}) {{\n" + "".join(f"    {line}\n" for line in (*ends, *body)) + "}\n"

    def _conv_of_pixels(self, step: Step, conv: Conv, source: Place, sink: Place) -> list[str]:
        plane, lanes, packed = sink.plane, self._vectors.lanes, sink.packed
        weights = self._parameters(step, conv, source.packed, sink.planes * packed)
        out, planes = len(weights.words) // conv.groups, weights.words.shape[1]
        rows, columns = best_cuts(out, plane.vectors, self._vectors, packed)
        first, rest = self._keep(*weights.blocks(out, rows.size)), self._keep_rest(weights)
        height, width = conv.weight.shape[2:]
        taps = window(height, width, conv.stride, plane)
        between = source.plane.pitch * (4 if conv.stride == 2 else 1)
        lines = [
            *_share(conv.groups * rows.parts * columns.parts, "t"),
            f"    const long r = t / {columns.parts}, c = t % {columns.parts}, group = r / {rows.parts};",
            f"    const long o = r % {rows.parts} * {rows.size}, channel = group * {out} + o;",
            f"    const long pixel = c * {columns.size * lanes};",
            f"    const float *from = in + group * {planes * between} + pixel;",
            f"    const float *w = weights + {first} + channel * {weights.words[0].size}, {rest};",
            f"    float *to = out + channel / {packed} * {plane.pitch} + pixel;",
        ]
        kind, far = Words(lanes, source.packed, packed), planes * between > _NEAR
        for (m, here), (n, there) in product(cases(rows, "o", rows.size), cases(columns, "c")):
            name = self._kernel(PixelKernel(m, n, taps, between, plane.pitch, kind, conv.relu, far))
            given = f"from, w, bias, scales, to, {self._mask(plane)} + pixel, {planes}"
            lines.append(f"    if ({here} && {there}) {name}({given});")
        return [*lines, "}"]

    def _conv_of_channels(self, step: Step, conv: Conv, source: Place, sink: Place) -> list[str]:
        plane, lanes, packed, channels = sink.plane, self._vectors.lanes, sink.packed, len(conv.weight)
        weights = self._parameters(step, conv, source.packed, round_up(channels, lanes))
        out, planes = weights.words.shape[:2]
        at_once = weights.words.size > _CACHED
        rows, columns = best_map_cuts(plane.height, plane.width, out // lanes, self._vectors, at_once=at_once)
        wide = columns.size * lanes
        first, rest = self._keep(*weights.blocks(out, wide)), self._keep_rest(weights, "o")
        pitch = 1 if sink.area == "logits" else plane.pitch
        row = conv.stride * source.plane.row
        # What is large is read once, and what is small again and again.
        large_map = 2 * planes * source.plane.pitch > weights.words.size
        inner = (
            f"c = t % {columns.parts}, r = t / {columns.parts}"
            if large_map
            else f"c = t / {rows.parts}, r = t % {rows.parts}"
        )
        lines = [
            *_share(columns.parts * rows.parts, "t"),
            f"    const long {inner}, o = c * {wide};",
            f"    const long y = r * {rows.size} / {plane.width}, x = r * {rows.size} % {plane.width};",
            f"    const float *from = in + y * {row} + x * {conv.stride};",
            f"    const float *w = weights + {first} + o * {weights.words[0].size}, {rest};",
            f"    float *to = out + o / {packed} * {pitch} + y * {plane.row} + x;",
        ]
        taps, kind = window(conv.size, conv.size, 1, source.plane), Words(lanes, source.packed, packed)
        for (n, there), (m, here) in product(cases(columns, "c"), cases(rows, "r")):
            read = pixels(m, plane.width, row, conv.stride)
            written = pixels(m, plane.width, plane.row, 1)
            kernel = ChannelKernel(n, read, written, taps, source.plane.pitch, pitch, kind, conv.relu)
            given = f"from, w, bias, scales, to, {planes}, {channels} - o"
            lines.append(f"    if ({there} && {here}) {self._kernel(kernel)}({given});")
        return [*lines, "}"]

    def _parameters(self, step: Step, conv: Conv, packed: int, channels: int) -> "_Parameters":
        units = self._network.units
        read, written = units.get(conv.source, 1.0), units.get(step.sink, 1.0)
        more = (0, channels - len(conv.weight))
        weight, bias = np.pad(conv.weight, (more, (0, 0), (0, 0), (0, 0))), np.pad(conv.bias, more)
        if conv.unit is None:
            return _Parameters(pack(weight, packed), bias, np.full(channels, 1 / written, np.float32))
        unit = np.pad(conv.unit.astype(np.float64), more, constant_values=1.0)
        whole = np.rint(weight / unit[:, None, None, None]).astype(np.int8)
        start = np.rint(bias / (read * unit))
        if np.max(np.abs(start) + 255.0 * np.abs(whole.astype(np.int64)).sum((1, 2, 3))) >= 2**31:
            raise ConfigError(
                f"runtime 'native' has too few bits for the sums of {step.sink} in int8; take another runtime"
            )
        sums = start.astype(np.int32).view(np.float32)
        return _Parameters(pack_bytes(whole), sums, (read * unit / written).astype(np.float32))

    def _keep_rest(self, weights: "_Parameters", channel: str = "channel") -> str:
        """What a step says of its bias and scales."""
        bias, scales = self._keep(weights.bias), self._keep(weights.scales)
        return f"*bias = weights + {bias} + {channel}, *scales = weights + {scales} + {channel}"

    def _max_pool(self, pool: MaxPool, source: Place, sink: Place) -> list[str]:
        plane, taps = sink.plane, window(pool.size, pool.size, pool.stride, sink.plane)
        ends = f"in + i * {4 * source.plane.pitch}, out + i * {plane.pitch}"
        return [
            f"static const long taps[] = {_braces(taps)};",
            *_share(sink.planes, "i"),
            f"    max_of_plane({ends}, {self._mask(plane)}, {plane.vectors}, taps, {len(taps)});",
            "}",
        ]

    def _from_points(self, does: FromPoints, source: Place, sink: Place) -> list[str]:
        bias, channels = self._keep(does.bias), len(does.bias)
        ends = f"in + i * {source.plane.pitch}, out + i * {sink.plane.pitch}, weights + {bias} + i"
        sizes = f"{sink.plane.height}, {sink.plane.width}, {source.plane.row}, {sink.plane.row}"
        call = f"plane_of_points({ends}, {sizes}, {channels * source.plane.pitch}, {int(does.relu)})"
        return [*_share(channels, "i"), f"    {call};", "}"]

    def _keep(self, *arrays: NDArray[np.float32]) -> int:
        """Append words, from the begin of a cache line; returns where that is."""
        begin = self._written
        words = np.concatenate([array.ravel() for array in arrays])
        whole = round_up(len(words), _ALIGNED)
        self._weights.append(np.pad(words, (0, whole - len(words))))
        self._written += whole
        return begin

    def _mask(self, plane: Plane) -> str:
        return self._masks.setdefault(plane, f"pixels{len(self._masks)}")

    def _kernel(self, kernel: PixelKernel | ChannelKernel) -> str:
        return self._kernels.setdefault(kernel, f"kernel{len(self._kernels)}")


def _mean(source: Place, sink: Place, unit: float | None) -> list[str]:
    plane, pitch = source.plane, sink.plane.pitch
    pixels_of = plane.height * plane.width
    if unit is None:
        ends = f"in + i * {plane.pitch}, out + i * {pitch}"
        call = f"mean_of_plane({ends}, {plane.vectors}, {pixels_of})"
    else:
        ends = f"in + i * {plane.pitch}, out + i * {BYTES * pitch}"
        scale = float(np.float32(unit / pixels_of)).hex()
        call = f"mean_of_bytes({ends}, {plane.vectors}, {scale}f, {pitch}, {source.channels} - i * {BYTES})"
    return [*_share(source.planes, "i"), f"    {call};", "}"]


def _split(source: Place, sink: Place) -> list[str]:
    plane, half = source.plane, sink.plane
    ends = f"in + i * {plane.pitch}, out + i * {4 * half.pitch}"
    sizes = f"{plane.height}, {plane.width}, {plane.row}, {half.row}, {half.pitch}"
    return [*_share(source.planes, "i"), f"    split_plane({ends}, {sizes});", "}"]


def _to_points(source: Place, sink: Place) -> list[str]:
    ends = f"in + i * {source.plane.pitch}, out + i * {sink.plane.pitch}"
    sizes = f"{source.plane.height}, {source.plane.width}, {source.plane.row}, {sink.plane.row}"
    call = f"points_of_plane({ends}, {sizes}, {source.channels * sink.plane.pitch})"
    return [*_share(source.channels, "i"), f"    {call};", "}"]


@dataclass(frozen=True, eq=False)
class _Parameters:
    """Of a convolution, with as many output channels as are computed."""

    words: NDArray[np.float32]
    """Weights (out, planes, height, width)."""
    bias: NDArray[np.float32]
    """(out,), in the bits of what sums are."""
    scales: NDArray[np.float32]
    """(out,), from sums to what is written."""

    def blocks(self, group: int, size: int) -> list[NDArray[np.float32]]:
        """Weights (planes, height, width, channels) of so many channels each, as far as a group has them."""
        groups = [self.words[first : first + group] for first in range(0, len(self.words), group)]
        return [words[o : o + size].transpose(1, 2, 3, 0) for words in groups for o in range(0, group, size)]


def _share(count: int, name: str) -> list[str]:
    """The head of the loop over one thread's part of so many things."""
    return [f"for (long {name} = part * {count} / parts; {name} < (part + 1) * {count} / parts; {name}++) {{"]


def _part(name: str) -> str:
    """C that is the same for every network."""
    return f"\n{resources.files('offramp_runtime.native').joinpath(name).read_text()}"


def _braces(values: Iterable[object]) -> str:
    return "{" + ", ".join(map(str, values)) + "}"


def _mask(name: str, plane: Plane) -> str:
    """All bits where there is a pixel."""
    return f"static const int32_t {name}[] = {_braces(-int(there) for there in plane.pixels())};\n"
