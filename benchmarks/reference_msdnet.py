"""The reference all speeds are quoted against: an MSDNet as public code runs it, in plain eager PyTorch.

Every scale of every layer is computed whether or not an exit reads it, every exit is evaluated, every layer concatenates
into a new tensor, norms stay separate, NCHW, float32. It shares only the plan's channel counts with the package, so no
improvement of the package's networks can move it.
"""

from itertools import accumulate

import torch
from torch import Tensor, nn

from offramp.nets.msdnet import MSDNetConfig, plain_plan
from offramp.nets.msdnet.plan import CellPlan

Maps = list[Tensor]
"""The map of each scale that is still alive, finest first."""


class Reference(nn.Module):
    """All cells and all exits of an MSDNet.

    Args:
        config: which network.
    """

    def __init__(self, config: MSDNetConfig) -> None:
        super().__init__()
        plans = plain_plan(config)
        cells = [cell for stage in plans for cell in stage.cells]
        depths = range(1, config.num_layers + 1)
        rows = [sorted((c for c in cells if c.layer == layer), key=lambda c: c.scale) for layer in (0, *depths)]
        self.first = First(rows[0], large=config.stem == "large")
        self.layers = nn.ModuleList(Layer(row, config) for row in rows[1:])
        self.exits = nn.ModuleList(
            exit_(stage.exit_channels, stage.exit_channels if config.stem == "large" else 128, config.num_classes)
            for stage in plans
        )
        self.depths = list(accumulate(config.stage_layers))
        self.eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits (N, C) of all exits, for normalised images (N, C, H, W)."""
        return self.up_to(len(self.exits) - 1, images)

    def up_to(self, k: int, images: Tensor) -> list[Tensor]:
        """Logits (N, C) of exits 0 … k: what public code would do if it stopped there."""
        maps: Maps = self.first(images)
        logits = []
        done = 0
        for depth, leave in zip(self.depths[: k + 1], self.exits, strict=False):
            for layer in self.layers[done:depth]:
                maps = layer(maps)
            logits.append(leave(maps[-1]))
            done = depth
        return logits


class First(nn.Module):
    """Layer 0: scale 0 from the images, every other scale from the one before it."""

    def __init__(self, cells: list[CellPlan], *, large: bool) -> None:
        super().__init__()
        finest, *others = cells
        stem = [
            *conv(finest.in_channels, finest.new_channels, 7 if large else 3, 2 if large else 1),
            *([nn.MaxPool2d(3, 2, 1)] if large else []),
        ]
        self.scales = nn.ModuleList(
            [nn.Sequential(*stem), *(nn.Sequential(*conv(c.in_channels, c.new_channels, 3, 2)) for c in others)]
        )

    def forward(self, images: Tensor) -> Maps:
        """(N, C, H, W) of every scale."""
        return list(accumulate(self.scales, lambda image, scale: scale(image), initial=images))[1:]


class Layer(nn.Module):
    """All scales of one layer, then the transitions where the layer has some."""

    def __init__(self, cells: list[CellPlan], config: MSDNetConfig) -> None:
        super().__init__()
        self.cells = nn.ModuleList(Cell(cell, config) for cell in cells)
        self.transitions = nn.ModuleList(
            nn.Sequential(*conv(cell.in_channels + cell.new_channels, cell.transition_channels, 1))
            for cell in cells
            if cell.transition_channels
        )

    def forward(self, maps: Maps) -> Maps:
        """The maps one layer on; the finest is gone where this layer drops a scale."""
        alive = len(self.cells)
        own, finer = maps[-alive:], [None, *maps][-alive - 1 : -1]
        out: Maps = [cell(one, above) for cell, one, above in zip(self.cells, own, finer, strict=True)]
        return [move(one) for move, one in zip(self.transitions, out, strict=True)] if self.transitions else out


class Cell(nn.Module):
    """One scale of one layer: its input, the finer scale's path and its own, concatenated."""

    def __init__(self, cell: CellPlan, config: MSDNetConfig) -> None:
        super().__init__()
        new = cell.new_channels // 2 if cell.finer_channels else cell.new_channels
        widths = [min(channels, factor * new) if config.bottleneck else 0
                  for channels, factor in ((cell.finer_channels, config.bottleneck_factors[cell.scale - 1]),
                                           (cell.in_channels, config.bottleneck_factors[cell.scale]))]  # fmt: skip
        self.down = path(cell.finer_channels, widths[0], new, 2) if cell.finer_channels else None
        self.normal = path(cell.in_channels, widths[1], new, 1)

    def forward(self, own: Tensor, finer: Tensor | None) -> Tensor:
        """(N, C, H, W) of this scale."""
        parts = [own, self.normal(own)] if self.down is None else [own, self.down(finer), self.normal(own)]
        return torch.cat(parts, dim=1)


def path(in_channels: int, bottleneck: int, out_channels: int, stride: int) -> nn.Sequential:
    """A 1x1 convolution to ``bottleneck`` channels, left out where that is 0, then 3x3."""
    narrow = conv(in_channels, bottleneck, 1) if bottleneck else []
    return nn.Sequential(*narrow, *conv(bottleneck or in_channels, out_channels, 3, stride))


def exit_(in_channels: int, hidden: int, classes: int) -> nn.Sequential:
    """Two strided convolutions, pooling, a linear layer; the pool adapts so that other image sizes work too."""
    layers = (*conv(in_channels, hidden, 3, 2), *conv(hidden, hidden, 3, 2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(hidden, classes))


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> list[nn.Module]:
    """Convolution, norm, ReLU."""
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]
