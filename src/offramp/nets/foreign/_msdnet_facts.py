"""What the keys and shapes of a kalviny/MSDNet-PyTorch state dict show, before any rule is assumed."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from offramp.errors import ArtifactError
from offramp.nets.foreign._reading import Shapes
from offramp.nets.msdnet.plan import CellKey, CellPlan

_LINEAR = "classifier.0.linear.weight"
_STEM = "blocks.0.0.layers.0.0.weight"
_SEEDING = re.compile(r"blocks\.0\.0\.layers\.(\d{1,4})\..+")
_SEED = re.compile(r"blocks\.0\.0\.layers\.(\d{1,4})\.(?:net\.)?0\.weight")
_PATH = re.compile(r"blocks\.(\d{1,4})\.(\d{1,4})\.layers\.(\d{1,4})\.conv_(normal|down)\.net\.0\.weight")
_TRANSITION = re.compile(r"blocks\.(\d{1,4})\.(\d{1,4})\.m\.(\d{1,4})\.net\.0\.weight")


@dataclass(frozen=True)
class PathFacts:
    """One path of a cell, in channels."""

    kind: str
    """``normal`` or ``down``."""
    scale: int
    """The scale it reads, 0 is the finest."""
    in_channels: int
    middle: int
    """Width of the bottleneck; of the output where there is none."""
    out_channels: int


@dataclass(frozen=True)
class Facts:
    """What a file shows by itself."""

    stage_layers: tuple[int, ...]
    """Layers of each block, (K,); the seeding layer is not counted."""
    cells: Mapping[CellKey, CellPlan]
    paths: tuple[PathFacts, ...]
    transitions: tuple[tuple[int, int], ...]
    """Channels of the coarsest scale before and after each transition."""
    bottleneck: bool
    large_stem: bool
    num_classes: int

    @property
    def seeds(self) -> tuple[int, ...]:
        """Channels of each scale after the seeding layer, (S,)."""
        return tuple(cell.new_channels for (layer, _), cell in self.cells.items() if layer == 0)

    @property
    def factors(self) -> tuple[int, ...]:
        """Scale factors in lowest terms, (S,)."""
        return tuple(seed // math.gcd(*self.seeds) for seed in self.seeds)

    @property
    def coarsest(self) -> tuple[CellPlan, ...]:
        """The cells of the coarsest scale, which every layer keeps; without the seed, (layers,)."""
        last = len(self.seeds) - 1
        return tuple(cell for (layer, scale), cell in self.cells.items() if layer and scale == last)


def read_facts(shapes: Shapes) -> Facts:
    """Sort the keys into blocks, layers, scales and paths.

    Our scales count from the finest of all, the file's from the finest that its layer keeps; the coarsest is common.

    Args:
        shapes: keys without ``module.``.

    Raises:
        ArtifactError: the keys are those of another network.
    """
    convs = {key: shape for key, shape in shapes.items() if len(shape) == 4}
    seeds = {int(match[1]): shape for match, shape in _matching(_SEED, convs)}
    num_scales = max((int(match[1]) + 1 for match, _ in _matching(_SEEDING, shapes)), default=1)
    paths = _paths_by_layer(convs, num_scales)
    _check_present(shapes, [scale for scale in range(num_scales) if scale not in seeds], any_layer=bool(paths))
    transitions = {(*_place(match), _index(match)): shape for match, shape in _matching(_TRANSITION, convs)}
    coarsest = {(block, position): (shape[1], shape[0]) for (block, position, _), shape in sorted(transitions.items())}
    cells = {(0, scale): CellPlan(0, scale, shape[1], 0, shape[0], 0) for scale, shape in sorted(seeds.items())}
    for layer, ((block, position), scales) in enumerate(sorted(paths.items()), start=1):
        for scale, own in scales.items():
            transition = transitions.get((block, position + 1, scale - min(scales)), (0,))
            cells[layer, scale] = _cell(layer, scale, own, transition[0])
    blocks = [block for block, _ in paths]
    return Facts(
        stage_layers=tuple(blocks.count(block) for block in sorted(set(blocks))),
        cells=cells,
        paths=tuple(path for scales in paths.values() for own in scales.values() for path in own),
        transitions=tuple(coarsest.values()),
        bottleneck=any(key.endswith(".net.3.weight") for key in convs),
        large_stem=_STEM in convs,
        num_classes=shapes[_LINEAR][0],
    )


def _check_present(shapes: Shapes, missing_seeds: list[int], *, any_layer: bool) -> None:
    """Refuse a state dict without the keys that tell an MSDNet from other networks and on which the rest is built."""
    absent = [f"blocks.0.0.layers.{scale} (convolution)" for scale in missing_seeds]
    absent += [] if any_layer else ["blocks.0.1.layers.0 (convolution)"]
    absent += [] if len(shapes.get(_LINEAR, ())) == 2 else [_LINEAR]
    if absent:
        raise ArtifactError(
            f"{absent[0]} is missing among '{min(shapes)}' and others, so this is no whole MSDNet of "
            "kalviny/MSDNet-PyTorch; check which network it is"
        )


def _matching(pattern: re.Pattern[str], shapes: Shapes) -> list[tuple[re.Match[str], tuple[int, ...]]]:
    return [(match, shape) for key, shape in shapes.items() if (match := pattern.fullmatch(key))]


def _place(match: re.Match[str]) -> tuple[int, int]:
    """Block and position inside it."""
    return int(match[1]), int(match[2])


def _index(match: re.Match[str]) -> int:
    """Which of the kept scales."""
    return int(match[3])


def _paths_by_layer(convs: Shapes, num_scales: int) -> dict[tuple[int, int], dict[int, list[PathFacts]]]:
    """The paths into each scale of the layer at each (block, position)."""
    found = _matching(_PATH, convs)
    last: dict[tuple[int, int], int] = {}
    for match, _ in found:
        last[_place(match)] = max(_index(match), last.get(_place(match), 0))
    layers: dict[tuple[int, int], dict[int, list[PathFacts]]] = {}
    for match, first in found:
        place, kind = _place(match), match[4]
        scale = num_scales - 1 - last[place] + _index(match)
        end = convs.get(match[0].replace(".net.0.", ".net.3."), first)
        path = PathFacts(kind, scale - (kind == "down"), first[1], first[0], end[0])
        layers.setdefault(place, {}).setdefault(scale, []).append(path)
    return layers


def _cell(layer: int, scale: int, paths: list[PathFacts], transition: int) -> CellPlan:
    reads = {path.kind: path.in_channels for path in paths}
    new = sum(path.out_channels for path in paths)
    return CellPlan(layer, scale, reads.get("normal", 0), reads.get("down", 0), new, transition)
