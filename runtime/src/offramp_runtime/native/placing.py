"""Where every map lies, so that nothing is moved only to be read together with something else.

Maps that are concatenated are written behind one another in the first place. What later stages read lies in the memory of
an image; everything else in scratch memory, where a map takes the place of those that nobody reads any more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from offramp_runtime import graph
from offramp_runtime.errors import ConfigError
from offramp_runtime.native.blocks import Vectors
from offramp_runtime.native.layers import Concat, Network, Shape, sources
from offramp_runtime.native.planes import Plane
from offramp_runtime.native.steps import Step, borders, in_order, packed_of, shapes_of

Area: TypeAlias = Literal["memory", "scratch", "logits"]


@dataclass(frozen=True)
class Place:
    """Where a map lies; all counts but ``channels`` are of words, which hold one channel of a pixel or several."""

    area: Area
    start: int
    """Before the first pixel of its first channel."""
    channels: int
    planes: int
    """Of words."""
    plane: Plane
    packed: int
    """Channels of a word."""


@dataclass(frozen=True, eq=False)
class Layout:
    """A network in memory."""

    steps: tuple[Step, ...]
    places: Mapping[str, Place]
    memory: int
    """Words of one image."""
    scratch: int
    """Words that one thread needs."""


def place(network: Network, vectors: Vectors) -> Layout:
    """Decide where everything lies.

    Raises:
        ConfigError: a map would have to lie in two places, or amid a word.
    """
    steps = in_order(network, vectors)
    packed = packed_of(network, steps, vectors.packed)
    shapes = shapes_of(network, steps, packed)
    around = borders(steps, shapes)
    sizes = {shape[1:] for shape in shapes.values()}
    planes = {size: Plane(*size, around.get(size, 0), vectors.lanes) for size in sizes}
    maps = _Maps(shapes, planes, join(network, packed), packed)
    memory, begins = _memory(network, maps)
    scratch, starts = _scratch(steps, maps, {*begins, *map(graph.logits_name, range(network.num_exits))})
    places = {}
    for name in {name for step in steps for name in (step.source, step.sink)}:
        places[name] = _place(name, maps, begins, starts)
    return Layout(tuple(steps), places, memory, scratch)


@dataclass(frozen=True)
class Home:
    """The map another is part of, and the channels before it there."""

    root: str
    before: int


def join(network: Network, packed: Mapping[str, int]) -> dict[str, Home]:
    """Where maps that are concatenated belong.

    Raises:
        ConfigError: one would have to lie in two places, or amid a word.
    """
    homes: dict[str, Home] = {}
    for layer in reversed(network.layers):  # the longest first: what it is made of is part of it
        if isinstance(layer, Concat):
            home = homes.setdefault(layer.sink, homes.get(layer.sources[0], Home(layer.sink, 0)))
            before = home.before
            for name in layer.sources:
                if homes.setdefault(name, Home(home.root, before)) != Home(home.root, before):
                    raise _two_places(name)
                if before % packed[name]:
                    raise ConfigError(
                        f"runtime 'native' packs {packed[name]} channels, and {name} comes after {before}; take fp32"
                    )
                before += network.shapes[name][0]
    _check_apart(network, homes)
    return homes


def _check_apart(network: Network, homes: Mapping[str, Home]) -> None:
    concats = {layer.sink for layer in network.layers if isinstance(layer, Concat)}
    owners: dict[tuple[str, int], str] = {}
    for name, home in homes.items():
        for channel in () if name in concats else range(network.shapes[name][0]):
            if owners.setdefault((home.root, home.before + channel), name) != name:
                raise _two_places(name)


def _two_places(name: str) -> ConfigError:
    return ConfigError(f"runtime 'native' cannot lay out map {name}, which belongs in two places; take another runtime")


@dataclass(frozen=True)
class _Maps:
    """What is known of maps before they have a place."""

    shapes: Mapping[str, Shape]
    planes: Mapping[tuple[int, int], Plane]
    homes: Mapping[str, Home]
    packed: Mapping[str, int]

    def root(self, name: str) -> str:
        return self.homes[name].root if name in self.homes else name

    def plane(self, name: str) -> Plane:
        return self.planes[self.shapes[name][1:]]

    def words(self, name: str) -> int:
        """Planes that hold its channels."""
        return -(-self.shapes[name][0] // self.packed[name])

    def before(self, name: str) -> int:
        """Planes before it in its root."""
        return self.homes[name].before // self.packed[name] if name in self.homes else 0


def _memory(network: Network, maps: _Maps) -> tuple[int, dict[str, int]]:
    """Words of an image, and where the maps begin that several stages have to do with."""
    reach: dict[str, set[int]] = {}
    for layer in network.layers:
        for name in (*sources(layer), layer.sink):
            stages = {network.stages[layer.sink], network.stages[name]}
            reach.setdefault(maps.root(name), set()).update(stages)
    begins, memory = {}, 0
    for root, stages in reach.items():
        if len(stages) > 1:
            begins[root] = memory
            memory += maps.plane(root).size(maps.words(root))
    return memory, begins


def _scratch(steps: Sequence[Step], maps: _Maps, elsewhere: set[str]) -> tuple[int, dict[str, int]]:
    """Words a thread needs, and where the other maps begin: in a place for all maps of a size, while they are needed."""
    last = {maps.root(name): number for number, step in enumerate(steps) for name in (step.source, step.sink)}
    pools = {plane: _Pool() for plane in maps.planes.values()}
    firsts: dict[str, int] = {}
    for number, step in enumerate(steps):
        for name in {maps.root(step.sink)} - elsewhere - firsts.keys():
            firsts[name] = pools[maps.plane(name)].take(maps.words(name))
        for name in {maps.root(step.source), maps.root(step.sink)} & firsts.keys():
            if last[name] == number:
                pools[maps.plane(name)].give_back(firsts[name], maps.words(name))
    begins, scratch = {}, 0
    for plane, pool in pools.items():
        begins[plane] = scratch
        scratch += plane.size(pool.size) if pool.size else 0
    return scratch, {name: begins[maps.plane(name)] + first * maps.plane(name).pitch for name, first in firsts.items()}


def _place(name: str, maps: _Maps, begins: Mapping[str, int], starts: Mapping[str, int]) -> Place:
    root, plane = maps.root(name), maps.plane(name)
    channels, words = maps.shapes[name][0], maps.words(name)
    inside = plane.lead + maps.before(name) * plane.pitch
    if root in begins:
        return Place("memory", begins[root] + inside, channels, words, plane, maps.packed[name])
    if root in starts:
        return Place("scratch", starts[root] + inside, channels, words, plane, maps.packed[name])
    return Place("logits", 0, channels, words, plane, maps.packed[name])


class _Pool:
    """Planes of one size, given out and taken back."""

    def __init__(self) -> None:
        self.size = 0
        """Planes there have ever been."""
        self._free: list[tuple[int, int]] = []
        """First plane and number of each gap."""

    def take(self, count: int) -> int:
        """The first of so many planes in a row."""
        for place, (start, length) in enumerate(self._free):
            if length >= count:
                self._free[place : place + 1] = [(start + count, length - count)] if length > count else []
                return start
        start = self.size
        self.size += count
        return start

    def give_back(self, start: int, count: int) -> None:
        """Planes that may be taken again."""
        merged: list[tuple[int, int]] = []
        for first, length in sorted([*self._free, (start, count)]):
            if merged and sum(merged[-1]) == first:
                merged[-1] = merged[-1][0], merged[-1][1] + length
            else:
                merged.append((first, length))
        self._free = merged
