"""A network as C."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from itertools import accumulate, product

import numpy as np
from numpy.typing import NDArray

from offramp_runtime import graph
from offramp_runtime.native.blocks import Vectors, best_cuts, best_map_cuts
from offramp_runtime.native.kernels import ChannelKernel, PixelKernel, cases, pixels, window
from offramp_runtime.native.layers import Conv, MaxPool, Mean, Network
from offramp_runtime.native.placing import Layout, Place
from offramp_runtime.native.planes import Plane, round_up
from offramp_runtime.native.steps import Step
from offramp_runtime.native.words import pack

_ALIGNED = 16
"""Words of a cache line."""


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
            "MEMORY": self._layout.memory,
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
        if isinstance(step.does, Conv):
            write = self._conv_of_pixels if step.over_pixels else self._conv_of_channels
            body = write(step.does, source, sink)
        elif isinstance(step.does, MaxPool):
            body = self._max_pool(step.does, source, sink)
        else:
            body = _mean(source, sink) if isinstance(step.does, Mean) else _split(source, sink)
        given = "float *memory, float *scratch, float *logits, const float *weights, long part, long parts"
        ends = [f"const float *in = {source.area} + {source.start};", f"float *out = {sink.area} + {sink.start};"]
        return f"\nstatic void step{number}({given}) {{\n" + "".join(f"    {line}\n" for line in (*ends, *body)) + "}\n"

    def _conv_of_pixels(self, conv: Conv, source: Place, sink: Place) -> list[str]:
        plane, packed, lanes = sink.plane, self._vectors.packed, self._vectors.lanes
        weight, bias = _padded(conv, sink.planes * packed)
        weight = pack(weight, packed)
        rows, columns = best_cuts(len(weight), plane.vectors, self._vectors)
        blocks = [weight[o : o + rows.size].transpose(1, 2, 3, 0) for o in range(0, len(weight), rows.size)]
        first, started = self._keep(*blocks), self._keep(bias)
        taps = window(conv.size, conv.stride, plane)
        between = source.plane.pitch * (4 if conv.stride == 2 else 1)
        lines = [
            *_share(rows.parts * columns.parts, "t"),
            f"    const long o = t / {columns.parts} * {rows.size}, c = t % {columns.parts};",
            f"    const long pixel = c * {columns.size * lanes};",
            f"    const float *w = weights + {first} + o * {weight[0].size}, *bias = weights + {started} + o;",
            f"    float *to = out + o / {packed} * {plane.pitch} + pixel;",
        ]
        for (m, here), (n, there) in product(cases(rows, "o", rows.size), cases(columns, "c")):
            name = self._kernel(PixelKernel(m, n, taps, between, plane.pitch, self._vectors, conv.relu))
            given = f"in + pixel, w, bias, to, {self._mask(plane)} + pixel, {weight.shape[1]}"
            lines.append(f"    if ({here} && {there}) {name}({given});")
        return [*lines, "}"]

    def _conv_of_channels(self, conv: Conv, source: Place, sink: Place) -> list[str]:
        plane, packed, lanes, out = sink.plane, self._vectors.packed, self._vectors.lanes, len(conv.weight)
        weight, bias = _padded(conv, round_up(out, lanes))
        weight = pack(weight, packed)
        rows, columns = best_map_cuts(plane.height, plane.width, len(weight) // lanes, self._vectors)
        wide = columns.size * lanes
        blocks = [weight[o : o + wide].transpose(1, 2, 3, 0) for o in range(0, len(weight), wide)]
        first, started = self._keep(*blocks), self._keep(bias)
        pitch = None if sink.area == "logits" else plane.pitch
        row = conv.stride * source.plane.row
        lines = [
            *_share(columns.parts * rows.parts, "t"),
            f"    const long c = t / {rows.parts}, r = t % {rows.parts}, o = c * {wide};",
            f"    const long y = r * {rows.size} / {plane.width}, x = r * {rows.size} % {plane.width};",
            f"    const float *from = in + y * {row} + x * {conv.stride};",
            f"    const float *w = weights + {first} + o * {weight[0].size}, *bias = weights + {started} + o;",
            "    float *to = out + o;"
            if pitch is None
            else f"    float *to = out + o / {packed} * {pitch} + y * {plane.row} + x;",
        ]
        taps = window(conv.size, 1, source.plane)
        for (n, there), (m, here) in product(cases(columns, "c"), cases(rows, "r")):
            read = pixels(m, plane.width, row, conv.stride)
            written = pixels(m, plane.width, plane.row, 1)
            kernel = ChannelKernel(n, read, written, taps, source.plane.pitch, pitch, self._vectors, conv.relu)
            given = f"from, w, bias, to, {weight.shape[1]}, {out} - o"
            lines.append(f"    if ({there} && {here}) {self._kernel(kernel)}({given});")
        return [*lines, "}"]

    def _max_pool(self, pool: MaxPool, source: Place, sink: Place) -> list[str]:
        plane, taps = sink.plane, window(pool.size, pool.stride, sink.plane)
        ends = f"in + i * {4 * source.plane.pitch}, out + i * {plane.pitch}"
        return [
            f"static const long taps[] = {_braces(taps)};",
            *_share(sink.planes, "i"),
            f"    max_of_plane({ends}, {self._mask(plane)}, {plane.vectors}, taps, {len(taps)});",
            "}",
        ]

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


def _mean(source: Place, sink: Place) -> list[str]:
    plane = source.plane
    ends = f"in + i * {plane.pitch}, out + i * {sink.plane.pitch}"
    return [
        *_share(source.planes, "i"),
        f"    mean_of_plane({ends}, {plane.vectors}, {plane.height * plane.width});",
        "}",
    ]


def _split(source: Place, sink: Place) -> list[str]:
    plane, half = source.plane, sink.plane
    ends = f"in + i * {plane.pitch}, out + i * {4 * half.pitch}"
    sizes = f"{plane.height}, {plane.width}, {plane.row}, {half.row}, {half.pitch}"
    return [*_share(source.planes, "i"), f"    split_plane({ends}, {sizes});", "}"]


def _padded(conv: Conv, channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Its weight and bias with so many output channels, those beyond its own zero."""
    more = (0, channels - len(conv.weight))
    return np.pad(conv.weight, (more, (0, 0), (0, 0), (0, 0))), np.pad(conv.bias, more)


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
