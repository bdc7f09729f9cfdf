"""The inference form of an MSDNet: norms folded, and one convolution for the bottlenecks that read the same map.

A map of layer l - 1 is read by the own path of its scale and by the path down to the next coarser one. Where both start
with a 1x1 bottleneck and run in the same stage (or on the way straight to the same exit), one convolution computes both.
"""

from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from offramp.nets.base import MultiExitNet, check_images
from offramp.nets.msdnet.config import MSDNetConfig
from offramp.nets.msdnet.net import MSDNet, Stage, cell_name
from offramp.nets.msdnet.parts import CellParts, cell_parts
from offramp.nets.msdnet.plan import CellKey
from offramp.runtimes import Cancellation
from offramp.shapes import State

Maps: TypeAlias = list[Tensor | None]
"""The newest map of each scale, finest first; before layer 0 the images stand at scale 0."""
Ahead: TypeAlias = dict[int, Tensor]
"""By scale, what its own path's bottleneck gave when it was computed together with that of the path down."""


class FusedSeed(nn.Module):
    """A cell of layer 0."""

    def __init__(self, scale: int, parts: CellParts) -> None:
        super().__init__()
        self.scale = scale
        self.conv = parts.own
        self.pool = parts.pool

    def forward(self, maps: Maps, _ahead: Ahead) -> Tensor:
        """(N, C, H, W) of this scale."""
        out: Tensor = self.conv(maps[max(0, self.scale - 1)])
        if self.pool is not None:
            out = self.pool(out)
        return out


class FusedCell(nn.Module):
    """A cell of an ordinary layer.

    Args:
        scale: where it stands.
        parts: its convolutions.
        shares: whether its bottleneck on the finer map also computes that of the finer cell's own path.
        served: whether the coarser cell has computed the bottleneck of its own path.
    """

    def __init__(self, scale: int, parts: CellParts, *, shares: bool, served: bool) -> None:
        super().__init__()
        self.scale, self.shares = scale, shares
        self.down_entry = parts.shared_entry if shares else parts.down_entry
        self.down = parts.down
        self.own_entry = None if served else parts.own_entry
        self.own = parts.own
        self.transition = parts.transition
        self.widths: list[int] = []
        """Of what the shared bottleneck gives to the path down and to the finer cell."""
        if shares:
            assert self.down_entry is not None
            assert self.down is not None
            self.widths = [self.down.in_channels, self.down_entry.out_channels - self.down.in_channels]

    def forward(self, maps: Maps, ahead: Ahead) -> Tensor:
        """(N, C, H, W) of this scale, from the maps one layer before."""
        own = maps[self.scale]
        assert own is not None
        pieces = [own]
        if self.down is not None:
            middle = maps[self.scale - 1]
            assert middle is not None
            if self.down_entry is not None:
                middle = self.down_entry(middle)
            if self.shares:
                middle, ahead[self.scale - 1] = torch.split(middle, self.widths, dim=1)
            pieces.append(self.down(middle))
        entered = ahead.pop(self.scale, own) if self.own_entry is None else self.own_entry(own)
        out = torch.cat([*pieces, self.own(entered)], dim=1)
        return out if self.transition is None else self.transition(out)


class FusedStage(nn.Module):
    """Some cells in the order of the plan, then an exit: a stage, or the way straight to an exit.

    Args:
        keys: the cells.
        parts: the convolutions of these and of other cells.
        classifier: the exit.
        keeps: scales to hand on.
    """

    def __init__(
        self, keys: Iterable[CellKey], parts: dict[CellKey, CellParts], classifier: nn.Module, keeps: tuple[int, ...]
    ) -> None:
        super().__init__()
        present = set(keys := list(keys))
        self.keys, self.keeps = keys, keeps
        self.cells = nn.ModuleDict()
        for layer, scale in keys:
            cell = parts[layer, scale]
            coarser = parts.get((layer, scale + 1)) if (layer, scale + 1) in present else None
            self.cells[cell_name((layer, scale))] = (
                FusedSeed(scale, cell)
                if layer == 0
                else FusedCell(
                    scale,
                    cell,
                    shares=cell.shared_entry is not None and (layer, scale - 1) in present,
                    served=coarser is not None and coarser.shared_entry is not None,
                )
            )
        self.exit = classifier

    def forward(self, state: State) -> tuple[State, Tensor]:
        """The next state and the logits (N, C)."""
        done = self.unless(lambda: False, state)
        assert done is not None
        return done

    def unless(self, stopped: Callable[[], bool], state: State) -> tuple[State, Tensor] | None:
        """The same, or None when ``stopped`` said so before one of the cells."""
        maps = list(state)
        ahead: Ahead = {}
        for (_, scale), cell in zip(self.keys, self.cells.values(), strict=True):
            if stopped():
                return None
            maps[scale] = cell(maps, ahead)
        logits = self.exit(maps[-1])
        return tuple(m if scale in self.keeps else None for scale, m in enumerate(maps)), logits


class FusedMSDNet(MultiExitNet):
    """A copy of a network's weights for inference; the same logits up to rounding.

    Args:
        net: the network; stays as it is.
        align: maps and bottlenecks get channels of zeros up to a multiple of this, for runtimes that keep channels in
            blocks of that size.
        merge: whether one convolution computes both bottlenecks that read a map.
    """

    def __init__(self, net: MSDNet, align: int = 1, merge: bool = True) -> None:
        super().__init__()
        self.config: MSDNetConfig = net.config
        parts, exits = cell_parts(net, align, merge)
        plans = []
        for stage in net.stages:
            assert isinstance(stage, Stage)
            plans.append(stage.plan)
        self.stages = nn.ModuleList(
            FusedStage([cell.key for cell in plan.cells], parts, classifier, plan.keeps)
            for plan, classifier in zip(plans, exits, strict=True)
        )
        self.ways = nn.ModuleList(
            FusedStage(plan.direct, parts, classifier, ()) for plan, classifier in zip(plans, exits, strict=True)
        )
        """The way straight to each exit, as one stage."""
        self.eval()

    def start(self, images: Tensor) -> State:
        """State before stage 0: the images, normalised (N, C, H, W), at the place of scale 0."""
        check_images(images, self.config.image_channels, self.config.smallest_image)
        return (images, *[None] * (self.config.num_scales - 1))

    def _direct(self, k: int, images: Tensor) -> Tensor:
        """Logits (N, C) of exit k, without earlier exits and without cells that only they need."""
        logits: Tensor
        _, logits = self.ways[k](self.start(images))
        return logits

    def step_unless(self, cancelled: Cancellation, k: int, state: State) -> tuple[State, Tensor] | None:
        """:meth:`step`, or None when ``cancelled`` was set before one of its cells."""
        stage = self.stages[k]
        assert isinstance(stage, FusedStage)
        return stage.unless(lambda: cancelled.is_set, state)
