"""The MSDNet itself: a dumb builder over the plan."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from offramp.nets import recompute
from offramp.nets.base import MultiExitNet, check_images
from offramp.nets.chain import Features, joined
from offramp.nets.layers import ConvNormReLU, Exit, LargeStem, he_fan_out_
from offramp.nets.msdnet.config import MSDNetConfig
from offramp.nets.msdnet.plan import CellKey, CellPlan, StagePlan, plan
from offramp.nets.recompute import Recompute
from offramp.shapes import State

Maps = list[Features | None]
"""The newest map of each scale, finest first, in one piece or several; before layer 0 the images stand at scale 0."""


class Seed(nn.Module):
    """A cell of layer 0: scale 0 from the images, every other scale from the one before it."""

    def __init__(self, cell: CellPlan, large_stem: bool) -> None:
        super().__init__()
        self.scale = cell.scale
        if cell.scale == 0 and large_stem:
            self.conv: nn.Module = LargeStem(cell.in_channels, cell.new_channels)
        else:
            self.conv = ConvNormReLU(cell.in_channels, cell.new_channels, 3, stride=1 if cell.scale == 0 else 2)

    def forward(self, maps: Maps) -> Features:
        """The map of this scale, (N, C, H, W)."""
        read = maps[max(0, self.scale - 1)]
        assert read is not None
        return (self.conv(joined(read)),)


class Cell(nn.Module):
    """A cell of an ordinary layer: its input, then the finer scale's path, then its own, concatenated."""

    recompute: Recompute = "none"
    dense = True

    def __init__(self, cell: CellPlan, config: MSDNetConfig) -> None:
        super().__init__()
        self.scale = cell.scale
        factors = config.bottleneck_factors
        out = cell.new_channels // 2 if cell.finer_channels else cell.new_channels

        def path(in_channels: int, factor: int, stride: int) -> nn.Sequential:
            return _path(in_channels, out, factor if config.bottleneck else None, stride)

        self.down = path(cell.finer_channels, factors[cell.scale - 1], 2) if cell.finer_channels else None
        self.normal = path(cell.in_channels, factors[cell.scale], 1)
        self.transition = (
            ConvNormReLU(cell.in_channels + cell.new_channels, cell.transition_channels, 1)
            if cell.transition_channels
            else None
        )

    def forward(self, maps: Maps) -> Features:
        """The map of this scale, (N, C, H, W), from the maps one layer before."""
        own = maps[self.scale]
        assert own is not None
        pieces = own
        if self.down is not None:
            finer = maps[self.scale - 1]
            assert finer is not None
            pieces = *pieces, self._along(self.down, finer)
        pieces = *pieces, self._along(self.normal, own)
        if self.transition is not None:
            return (self._run(self.transition, self.transition, self.recompute != "none", pieces),)
        # Put together where it is needed, it need not be kept.
        return (torch.cat(pieces, dim=1),) if self.recompute == "none" else pieces

    def _along(self, path: nn.Sequential, features: Features) -> Tensor:
        if self.recompute == "all" or isinstance(path, ConvNormReLU):
            return self._run(path, path, self.recompute != "none", features)
        return path[1](self._run(path[0], path, self.recompute == "layers", features))  # type: ignore[no-any-return]

    def _run(self, part: nn.Module, owner: nn.Module, again: bool, features: Features) -> Tensor:
        return recompute.run(lambda *pieces: part(joined(pieces)), owner, again, *features)


def _path(in_channels: int, out_channels: int, bottleneck_factor: int | None, stride: int) -> nn.Sequential:
    """Optional 1x1 bottleneck, then 3x3. Its width is counted from the path's own output (public code does so too)."""
    if bottleneck_factor is None:
        return ConvNormReLU(in_channels, out_channels, 3, stride)
    middle = min(in_channels, bottleneck_factor * out_channels)
    return nn.Sequential(ConvNormReLU(in_channels, middle, 1), ConvNormReLU(middle, out_channels, 3, stride))


class Stage(nn.Module):
    """The cells that exit k needs and no earlier exit needed, then exit k."""

    def __init__(self, stage: StagePlan, config: MSDNetConfig) -> None:
        super().__init__()
        large = config.stem == "large"
        self.plan = stage
        self.cells = nn.ModuleDict(
            {cell_name(c.key): Seed(c, large) if c.layer == 0 else Cell(c, config) for c in stage.cells}
        )
        self.exit = Exit(stage.exit_channels, stage.exit_channels if large else 128, config.num_classes)

    def forward(self, state: State) -> tuple[State, Tensor]:
        """The next state and the logits (N, C)."""
        maps = _maps(state)
        for cell_plan, cell in zip(self.plan.cells, self.cells.values(), strict=True):
            maps[cell_plan.scale] = cell(maps)
        kept = ((m if scale in self.plan.keeps else None) for scale, m in enumerate(maps))
        return tuple(None if m is None else joined(m) for m in kept), self.answer(maps)

    def answer(self, maps: Maps) -> Tensor:
        """The logits (N, C) of the exit."""
        coarsest = maps[-1]
        assert coarsest is not None
        logits: Tensor = self.exit(joined(coarsest))
        return logits


class MSDNet(MultiExitNet):
    """Multi-scale dense network, lazy by construction (Huang et al., arXiv:1703.09844).

    Args:
        config: what to build.
        planner: which cells each stage computes; :func:`~offramp.nets.msdnet.plan.plain_plan` gives the network of the
            public code, for comparison.
    """

    def __init__(self, config: MSDNetConfig, planner: Callable[[MSDNetConfig], tuple[StagePlan, ...]] = plan) -> None:
        super().__init__()
        self.config: MSDNetConfig = config
        self.stages = nn.ModuleList(Stage(stage, config) for stage in planner(config))
        self._cells = dict(self.cells())
        he_fan_out_(self)

    def cells(self) -> Iterator[tuple[CellKey, nn.Module]]:
        """Every cell with its (layer, scale), in the order of the stages."""
        for stage in self.stages:
            assert isinstance(stage, Stage)
            for cell_plan in stage.plan.cells:
                yield cell_plan.key, stage.cells[cell_name(cell_plan.key)]

    def start(self, images: Tensor) -> State:
        """State before stage 0: the images, normalised (N, C, H, W), at the place of scale 0."""
        check_images(images, self.config.image_channels, self.config.smallest_image)
        return (images, *[None] * (self.config.num_scales - 1))

    def _direct(self, k: int, images: Tensor) -> Tensor:
        """Logits (N, C) of exit k, without earlier exits and without cells that only they need."""
        stage = self.stages[k]
        assert isinstance(stage, Stage)
        maps = _maps(self.start(images))
        for key in stage.plan.direct:
            maps[key[1]] = self._cells[key](maps)
        return stage.answer(maps)

    def fused(self, align: int = 1, merge: bool = True, eager: bool = False) -> MultiExitNet:  # noqa: ARG002
        """A float32 copy for inference only, without norms; the same logits up to rounding.

        Args:
            align: channels of maps and bottlenecks are rounded up to a multiple of this, with zeros.
            merge: whether one convolution computes both bottlenecks that read a map.
            eager: changes nothing here.
        """
        from offramp.nets.msdnet.fused import FusedMSDNet

        return FusedMSDNet(self, align, merge)


def _maps(state: State) -> Maps:
    return [None if m is None else (m,) for m in state]


def cell_name(key: CellKey) -> str:
    """Name of a cell inside its stage; part of the state-dict keys."""
    layer, scale = key
    return f"layer{layer}_scale{scale}"
