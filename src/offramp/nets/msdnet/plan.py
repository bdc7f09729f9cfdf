"""Which (layer, scale) cells each stage of an MSDNet computes, decided before anything is built.

Layer 0 is the seeding layer; ordinary layers count from 1. A cell is one scale of one layer. The exit after layer l
reads the coarsest scale there, which needs the next finer scale only up to layer l - 1, the next up to l - 2, and so on
(paper §4, "lazy evaluation"). Stage k is planned to compute the cells exit k needs and no earlier exit needed.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from offramp.errors import ConfigError
from offramp.nets.msdnet.config import MSDNetConfig

CellKey = tuple[int, int]
"""(layer, scale)."""


@dataclass(frozen=True)
class CellPlan:
    """One cell, in channels. A cell's output is its input, then what its own and the finer scale's path add."""

    layer: int
    scale: int
    in_channels: int
    """Channels of its own scale one layer before (layer 0: of what the seed reads)."""
    finer_channels: int
    """Channels of the next finer scale one layer before; 0 where the cell has no path from it."""
    new_channels: int
    """Channels added, halved between the two paths where there are two (layer 0: all of them)."""
    transition_channels: int
    """Width after the 1x1 transition that follows the layer; 0 where none follows."""

    @property
    def key(self) -> CellKey:
        """(layer, scale)."""
        return self.layer, self.scale

    @property
    def out_channels(self) -> int:
        """Channels handed on."""
        seeded = self.new_channels if self.layer == 0 else self.in_channels + self.new_channels
        return self.transition_channels or seeded


@dataclass(frozen=True)
class StagePlan:
    """What stage k computes and hands on."""

    layer: int
    """The layer whose coarsest scale exit k reads."""
    cells: tuple[CellPlan, ...]
    """In an order that can be executed on one map per scale: a cell comes before the finer cell of its layer."""
    direct: tuple[CellKey, ...]
    """The cells needed to go straight to exit k, in the same order, over stages 0 … k."""
    keeps: tuple[int, ...]
    """Scales that a later stage still reads."""
    exit_channels: int
    """Channels that exit k reads."""


def plan(config: MSDNetConfig) -> tuple[StagePlan, ...]:
    """The lazy plan, K stages: every cell once, where it is first needed; cells no exit needs are left out."""
    cells = _cells(config)
    needs = [_needed(cells, (layer, config.num_scales - 1)) for layer in accumulate(config.stage_layers)]
    return _stages(config, cells, needs, needs)


def plain_plan(config: MSDNetConfig) -> tuple[StagePlan, ...]:
    """What the public code computes: stage k runs all scales of all its layers, needed or not. For comparison only."""
    cells = _cells(config)
    exits = list(accumulate(config.stage_layers))
    reach = [{key for key in cells if key[0] <= layer} for layer in exits]
    needs = [_needed(cells, (layer, config.num_scales - 1)) for layer in exits]
    return _stages(config, cells, reach, needs)


def _stages(
    config: MSDNetConfig, cells: dict[CellKey, CellPlan], reach: list[set[CellKey]], needs: list[set[CellKey]]
) -> tuple[StagePlan, ...]:
    coarsest = config.num_scales - 1
    done: set[CellKey] = set()
    stages = []
    for k, layer in enumerate(accumulate(config.stage_layers)):
        fresh = _ordered(reach[k] - done)
        done |= reach[k]
        later = set().union(*reach[k:]) - done
        stages.append(
            StagePlan(
                layer=layer,
                cells=tuple(cells[key] for key in fresh),
                direct=tuple(_ordered(needs[k])),
                keeps=tuple(sorted({scale for key in later for scale in _reads(cells[key])})),
                exit_channels=cells[layer, coarsest].out_channels,
            )
        )
    return tuple(stages)


def _ordered(keys: Iterable[CellKey]) -> list[CellKey]:
    """Layer by layer; seeds from fine to coarse (each reads the finer one), other layers from coarse to fine."""
    return sorted(keys, key=lambda key: (key[0], key[1] if key[0] == 0 else -key[1]))


def _reads(cell: CellPlan) -> tuple[int, ...]:
    """The scales an ordinary cell reads one layer before."""
    return (cell.scale, cell.scale - 1) if cell.finer_channels else (cell.scale,)


def _needed(cells: dict[CellKey, CellPlan], target: CellKey) -> set[CellKey]:
    """Everything ``target`` depends on, itself included."""
    found: set[CellKey] = set()
    open_keys = [target]
    while open_keys:
        key = open_keys.pop()
        if key in found:
            continue
        found.add(key)
        layer, scale = key
        if layer > 0:
            open_keys += [(layer - 1, read) for read in _reads(cells[key])]
        elif scale > 0:
            open_keys.append((0, scale - 1))
    return found


def _cells(config: MSDNetConfig) -> dict[CellKey, CellPlan]:
    """Every cell the plain network has."""
    scales, factors = config.num_scales, config.scale_factors
    cells: dict[CellKey, CellPlan] = {}
    for scale, factor in enumerate(factors):
        below = config.channels * factors[scale - 1] if scale else config.image_channels
        cells[0, scale] = CellPlan(0, scale, below, 0, config.channels * factor, 0)
    width = config.channels
    for layer in range(1, config.num_layers + 1):
        first_in, first_out = (scales - alive for alive in _alive(config, layer))
        grown = width + config.growth_rate
        transition = _has_transition(config, layer)
        after = math.floor(config.reduction * grown) if transition else 0
        if transition and after == 0:
            raise ConfigError(
                f"reduction={config.reduction}: leaves no channel of {grown} after layer {layer}; "
                "raise reduction or channels"
            )
        for scale in range(first_out, scales):
            finer = width * factors[scale - 1] if scale > first_in else 0
            new = config.growth_rate * factors[scale]
            cells[layer, scale] = CellPlan(layer, scale, width * factors[scale], finer, new, after * factors[scale])
        width = after or grown
    return cells


def _alive(config: MSDNetConfig, layer: int) -> tuple[int, int]:
    """How many scales, counted from the coarsest, a layer reads and gives."""
    scales, depth = config.num_scales, config.num_layers
    if config.pruning == "min":
        return min(scales, depth - layer + 2), min(scales, depth - layer + 1)
    interval = math.ceil(depth / scales)
    return scales - max(0, layer - 2) // interval, scales - (layer - 1) // interval


def _has_transition(config: MSDNetConfig, layer: int) -> bool:
    """With ``max`` after each layer that drops a scale; with ``min`` after the thirds of the depth."""
    if config.reduction == 0:
        return False
    if config.pruning == "min":
        return layer in (config.num_layers // 3, 2 * config.num_layers // 3)
    alive_in, alive_out = _alive(config, layer)
    return alive_out < alive_in
