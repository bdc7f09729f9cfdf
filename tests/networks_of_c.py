"""Networks of a few random layers for the runtime that makes C of them, and what they should give."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from offramp_runtime import graph
from offramp_runtime.native.blocks import Vectors
from offramp_runtime.native.layers import Concat, Conv, Layer, MaxPool, Mean, Network, Shape, sources
from offramp_runtime.native.stages import NativeStages, build

CLASSES = 5


@dataclass(frozen=True)
class Window:
    """A convolution, or where ``out`` is 0 a pool."""

    out: int
    size: int
    stride: int
    relu: bool = True
    joined: bool = False
    """Whether the next layer reads what this one read, and what it gives behind it."""


def network_of(image: Shape, stages: Sequence[Sequence[Window]], seed: int = 0, classes: int = CLASSES) -> Network:
    """Stages that each go on where the one before ended, and have an exit."""
    draw = np.random.default_rng(seed)
    shapes, made = {graph.IMAGES: image}, {graph.IMAGES: -1}
    layers: list[Layer] = []

    def add(layer: Layer, shape: Shape, k: int) -> str:
        layers.append(layer)
        shapes[layer.sink], made[layer.sink] = shape, k
        return layer.sink

    def conv(source: str, sink: str, window: Window) -> Conv:
        fan_in = shapes[source][0] * window.size**2
        weight = draw.normal(0, (2 / fan_in) ** 0.5, (window.out, shapes[source][0], window.size, window.size))
        bias = draw.normal(0, 0.3, window.out)
        return Conv(source, sink, weight.astype(np.float32), bias.astype(np.float32), window.stride, window.relu)

    at, not_negative = graph.IMAGES, set[str]()
    for k, windows in enumerate(stages):
        for number, window in enumerate(windows):
            name, (channels, height, width) = f"{k}.{number}", shapes[at]
            smaller = -(-height // window.stride), -(-width // window.stride)
            if window.out:
                not_negative |= {name} if window.relu else set()
                read, at = at, add(conv(at, name, window), (window.out, *smaller), k)
                if window.joined and smaller == (height, width):
                    at = add(Concat((read, name), f"{name} joined"), (channels + window.out, *smaller), k)
            elif at in not_negative:  # as what is pooled must be
                not_negative.add(name)
                at = add(MaxPool(at, name, window.size, window.stride), (channels, *smaller), k)
        mean = add(Mean(at, f"{k} mean"), (shapes[at][0], 1, 1), k)
        add(conv(mean, graph.logits_name(k), Window(classes, 1, 1, relu=False)), (classes, 1, 1), k)
    ways = tuple(frozenset(needed(layers, graph.logits_name(k))) for k in range(len(stages)))
    return Network(tuple(layers), shapes, made, ways)


def needed(layers: Sequence[Layer], name: str) -> set[str]:
    """A map and all it is made of, without the images."""
    return {name}.union(
        *(
            needed(layers, read)
            for layer in layers
            if layer.sink == name
            for read in sources(layer)
            if read != graph.IMAGES
        )
    )


def in_bytes(network: Network, seed: int = 0) -> Network:
    """The network with other weights and 8-bit maps, whose units are powers of two, so that nothing but them is rounded.

    Images have to be whole numbers, and every convolution a ReLU.
    """
    draw = np.random.default_rng(seed)
    unit_of_maps = 2.0**-3
    layers: list[Layer] = []
    units: dict[str, float] = {}
    for layer in network.layers:
        given: Layer = layer
        if isinstance(layer, Conv) and layer.source == graph.IMAGES:
            weight, bias = draw.integers(-8, 9, layer.weight.shape) / 4, draw.integers(-16, 64, len(layer.bias)) / 4
            given = replace(layer, weight=weight.astype(np.float32), bias=bias.astype(np.float32))
        elif isinstance(layer, Conv) and layer.relu:
            fan_in = layer.weight[0].size
            unit = 2.0 ** -(np.round(np.log2(73 * fan_in**0.5)) + draw.integers(-1, 2, len(layer.bias)))
            weight = draw.integers(-128, 128, layer.weight.shape) * unit[:, None, None, None]
            bias = draw.integers(-(2**13), 2**15, len(layer.bias)) * (unit_of_maps * unit)
            given = replace(
                layer, weight=weight.astype(np.float32), bias=bias.astype(np.float32), unit=unit.astype(np.float32)
            )
        if not isinstance(layer, Mean) and (not isinstance(layer, Conv) or layer.relu):
            units[layer.sink] = unit_of_maps
        layers.append(given)
    return replace(network, layers=tuple(layers), units=units)


def run_in_torch(network: Network, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (K, N, C)."""
    maps: dict[str, Tensor] = {graph.IMAGES: torch.from_numpy(images)}
    for layer in network.layers:
        found = _run(layer, maps)
        if unit := network.units.get(layer.sink):
            found = (found / unit).round().clamp(0, 255) * unit
        maps[layer.sink] = found
    logits = [maps[graph.logits_name(k)].flatten(1) for k in range(network.num_exits)]
    return torch.stack(logits).numpy()


def _run(layer: Layer, maps: dict[str, Tensor]) -> Tensor:
    match layer:
        case Conv():
            weight, bias = torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)
            found = F.conv2d(maps[layer.source], weight, bias, layer.stride, layer.size // 2)
            return found.relu() if layer.relu else found
        case MaxPool():
            return F.max_pool2d(maps[layer.source], layer.size, layer.stride, layer.size // 2)
        case Mean():
            return maps[layer.source].mean((2, 3), keepdim=True)
        case Concat():
            return torch.cat([maps[name] for name in layer.sources], 1)


def stages_of(network: Network, vectors: Vectors, folder: Path, threads: int = 1) -> NativeStages:
    """The network, compiled."""
    folder.mkdir()
    build(network, vectors, folder)
    return NativeStages(folder, threads=threads)
