"""What to compute one after the other."""

from collections.abc import Mapping
from dataclasses import dataclass

from offramp_runtime import graph
from offramp_runtime.native.blocks import Vectors
from offramp_runtime.native.layers import Concat, Conv, Layer, MaxPool, Mean, Network, Shape
from offramp_runtime.native.planes import Plane, round_up
from offramp_runtime.native.points import FromPoints, ToPoints, at_points, by_way_of_points, pays

BYTES = 4
"""In a word."""
_WORTH = 1.05
"""How much longer as many products take with vectors of channels: each is loaded from the weights, and what they give is
written pixel by pixel (as tried on a Zen 4; on a Xeon it is more)."""


@dataclass(frozen=True)
class Split:
    """Every channel of a map as four of half its size: even and odd rows, and of each even and odd columns."""

    source: str
    sink: str


@dataclass(frozen=True, eq=False)
class Step:
    """One thing to compute."""

    does: Conv | MaxPool | Mean | Split | ToPoints | FromPoints
    source: str
    """The map it reads: that of the layer, or what has been made of it."""
    users: frozenset[str]
    """The maps of the network it is needed for."""
    over_pixels: bool = True
    """Whether a vector holds pixels of one channel, or channels of one pixel."""

    @property
    def sink(self) -> str:
        """The map it gives."""
        return self.does.sink


def in_order(network: Network, vectors: Vectors) -> list[Step]:
    """The layers that compute something, and splits before the first that reads them in its stage."""
    lanes, floats = vectors.lanes, vectors.packed == 1 and not network.units
    steps: list[Step] = []
    splits = _splits(network, lanes)
    begun: set[str] = set()
    for layer in network.layers:
        if isinstance(layer, Concat):
            continue
        if floats and isinstance(layer, Conv) and pays(layer, network.shapes[layer.sink], vectors):
            steps += [Step(does, does.source, frozenset({layer.sink})) for does in by_way_of_points(layer)]
            continue
        source = layer.source
        if _reads_split(network, layer, lanes):
            source = _split_name(network, layer)
            if source not in begun:
                begun.add(source)
                steps.append(Step(Split(layer.source, source), layer.source, frozenset(splits[source])))
        steps.append(Step(layer, source, frozenset({layer.sink}), _over_pixels(network, layer, lanes)))
    return steps


def shapes_of(network: Network, steps: list[Step], packed: Mapping[str, int]) -> dict[str, Shape]:
    """Of all maps: splits have planes of as many channels as what they are made of."""
    shapes = dict(network.shapes)
    for step in steps:
        if isinstance(step.does, ToPoints):
            shapes[step.sink] = at_points(shapes[step.source])
        elif isinstance(step.does, Conv):
            shapes.setdefault(step.sink, (len(step.does.weight), *shapes[step.source][1:]))
        elif isinstance(step.does, Split):
            channels, height, width = shapes[step.source]
            shapes[step.sink] = (4 * round_up(channels, packed[step.source]), -(-height // 2), -(-width // 2))
    return shapes


def packed_of(network: Network, steps: list[Step], usual: int) -> dict[str, int]:
    """How many channels of each map a word holds: four of 8 bits, one of logits, else as is usual."""
    packed = {name: BYTES if name in network.units else usual for name in network.shapes}
    packed |= {graph.logits_name(k): 1 for k in range(network.num_exits)}
    for step in steps:
        packed.setdefault(step.sink, packed[step.source])
    return packed


def borders(steps: list[Step], shapes: Mapping[str, Shape]) -> dict[tuple[int, int], int]:
    """The widest border that is read around maps of each size."""
    widest: dict[tuple[int, int], int] = {}
    for step in steps:
        size = shapes[step.source][1:]
        if isinstance(step.does, Conv | MaxPool):
            half = step.does.size // 2
            needed = -(-half // 2) if step.does.stride == 2 and step.over_pixels else half
            widest[size] = max(widest.get(size, 0), needed)
        elif isinstance(step.does, ToPoints):  # reads none, but planes of powers of two share the lines of a cache
            widest[size] = max(widest.get(size, 0), 1)
    return widest


def _splits(network: Network, lanes: int) -> dict[str, set[str]]:
    """Their names, and the maps they are needed for."""
    users: dict[str, set[str]] = {}
    for layer in network.layers:
        if not isinstance(layer, Concat) and _reads_split(network, layer, lanes):
            users.setdefault(_split_name(network, layer), set()).add(layer.sink)
    return users


def _split_name(network: Network, layer: Conv | MaxPool | Mean) -> str:
    return f"{layer.source} split for stage {network.stages[layer.sink]}"


def _reads_split(network: Network, layer: Layer, lanes: int) -> bool:
    """A vector of pixels holds neighbours, which a window that moves by two does not read."""
    return isinstance(layer, Conv | MaxPool) and layer.stride == 2 and _over_pixels(network, layer, lanes)


def _over_pixels(network: Network, layer: Layer, lanes: int) -> bool:
    """Whether that wastes less of the vectors than channels would."""
    if not isinstance(layer, Conv):
        return True
    channels, height, width = network.shapes[layer.sink]
    if height * width == 1:  # among them logits, behind which there is no room for the rest of a vector
        return False
    of_pixels = Plane(height, width, 1, lanes).vectors * lanes * channels
    of_channels = height * width * round_up(channels, lanes)
    return of_pixels <= _WORTH * of_channels
