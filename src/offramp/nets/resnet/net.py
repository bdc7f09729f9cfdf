"""The residual network itself."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.nets.chain import ChainNet, ChainStage, Features, Ordinary, joined
from offramp.nets.dense_layers import NormReLU, PooledExit
from offramp.nets.folding import SpatialMean, fold, fold_conv, fold_pair
from offramp.nets.layers import ConvNormReLU, LargeStem
from offramp.nets.resnet.config import ResNetConfig


class Residual(nn.Module):
    """A block: what it adds to its input, or to what the input becomes on the way.

    Args:
        body: from the input to what is added.
        shortcut: from the input to what that is added to.
        entry: what both of them read the input through.
        survival: chance that a step of training runs ``body``; what it gives in evaluation is multiplied by it.
        activates: whether a ReLU follows.
    """

    def __init__(
        self, body: nn.Module, shortcut: nn.Module, entry: nn.Module, survival: float, *, activates: bool
    ) -> None:
        super().__init__()
        self.entry, self.body, self.shortcut = entry, body, shortcut
        self.survival, self.activates = survival, activates

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W), the size as ``shortcut`` makes it."""
        features = self.entry(features)
        kept: Tensor = self.shortcut(features)
        if not self.training:
            added = self.body(features)
            kept = kept + (added if self.survival == 1 else self.survival * added)
        elif self.survival == 1 or float(torch.rand(())) < self.survival:  # drawn on the CPU: no device is waited for
            kept = kept + self.body(features)
        return F.relu(kept) if self.activates else kept


class Plain(nn.Sequential):
    """Convolutions, each followed by norm and ReLU but for the last, which has only the norm."""

    def folded(self) -> nn.Module:
        """Without norms."""
        *first, conv, norm = self
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        before = [fold(layer) for layer in first if isinstance(layer, ConvNormReLU)]
        return nn.Sequential(*before, fold_conv(conv, norm))


class Preactivated(nn.Sequential):
    """Convolutions with norm and ReLU before them, but for the first where the block's entry has done that."""

    def folded(self) -> nn.Module:
        """With every norm that follows a convolution in it."""
        made: list[nn.Module] = []
        for layer in self:
            if not isinstance(layer, NormReLU):
                made += [] if isinstance(layer, nn.Dropout) else [layer]
            elif made and isinstance(made[-1], nn.Conv2d):
                made[-1] = fold_pair(made[-1], layer.norm)
            else:
                made.append(layer.folded())
        return nn.Sequential(*made)


class PaddedShortcut(nn.Module):
    """Every ``stride``-th pixel, and channels of zeros behind those there are."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, features: Tensor) -> Tensor:
        """(N, C + more, H / stride, W / stride)."""
        return F.pad(features[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


class ProjectedShortcut(nn.Sequential):
    """A strided 1x1 convolution, with norm where norms follow convolutions."""

    def folded(self) -> nn.Module:
        """Without norm."""
        conv, *norm = self
        if not norm:
            return self
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm[0], nn.BatchNorm2d)
        return fold_conv(conv, norm[0])


class LinearExit(nn.Module):
    """Global average pooling and a linear layer."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.pool = SpatialMean()
        self.linear = nn.Linear(in_channels, num_classes)

    def forward(self, features: Features) -> Tensor:
        """Logits (N, classes)."""
        return self.linear(self.pool(joined(features)))  # type: ignore[no-any-return]


class ResNet(ChainNet):
    """Residual network (He et al., arXiv:1512.03385), with as many exits as its config says."""

    config: ResNetConfig

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(config, _stages(config))


def _stages(config: ResNetConfig) -> Iterator[ChainStage]:
    parts: list[nn.Module] = [Ordinary(_stem(config))]
    channels, block = config.channels, 0
    for resolution, (blocks, width) in enumerate(zip(config.blocks, config.widths, strict=True)):
        for first in [True] + [False] * (blocks - 1):
            block += 1
            stride = 2 if first and resolution else 1
            survival = 1 - config.stochastic_depth * block / sum(config.blocks)
            parts.append(Ordinary(_block(channels, width, stride, survival, config)))
            channels = width * config.expansion
            if block in config.exit_blocks:
                yield ChainStage(parts, _exit(channels, config), last=False)
                parts = []
    yield ChainStage(parts, _exit(channels, config), last=True)


def _stem(config: ResNetConfig) -> nn.Module:
    if config.stem == "large":
        return LargeStem(config.image_channels, config.channels)
    if config.preactivation:
        return nn.Conv2d(config.image_channels, config.channels, 3, padding=1, bias=False)
    return ConvNormReLU(config.image_channels, config.channels, 3)


def _exit(channels: int, config: ResNetConfig) -> nn.Module:
    # With norms first, the sum of a block has had none yet.
    return (
        PooledExit(channels, config.num_classes) if config.preactivation else LinearExit(channels, config.num_classes)
    )


def _block(channels: int, width: int, stride: int, survival: float, config: ResNetConfig) -> nn.Module:
    out = width * config.expansion
    shapes = [(channels, width, 3, stride), (width, width, 3, 1)]
    if config.expansion > 1:
        shapes = [(channels, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
    shortcut: nn.Module = nn.Identity()
    if stride > 1 or channels != out:
        if config.shortcut == "pad":
            shortcut = PaddedShortcut(out - channels, stride)
        else:
            norm = () if config.preactivation else (nn.BatchNorm2d(out),)
            shortcut = ProjectedShortcut(nn.Conv2d(channels, out, 1, stride, bias=False), *norm)
    if not config.preactivation:
        return Residual(_plain(shapes, config.dropout), shortcut, nn.Identity(), survival, activates=True)
    # Where the shape changes, the shortcut too reads what the first norm and ReLU give.
    entry = nn.Identity() if isinstance(shortcut, nn.Identity) else NormReLU(channels)
    body = _preactivated(shapes, config.dropout, entered=isinstance(entry, NormReLU))
    return Residual(body, shortcut, entry, survival, activates=False)


def _plain(shapes: list[tuple[int, int, int, int]], dropout: float) -> nn.Module:
    *first, (into, out, kernel, stride) = shapes
    layers: list[nn.Module] = [ConvNormReLU(*shape) for shape in first]
    layers += [nn.Dropout(dropout)] if dropout else []
    return Plain(*layers, nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out))


def _preactivated(shapes: list[tuple[int, int, int, int]], dropout: float, *, entered: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for number, (into, out, kernel, stride) in enumerate(shapes):
        layers += [] if entered and number == 0 else [NormReLU(into)]
        layers += [nn.Dropout(dropout)] if dropout and number == len(shapes) - 1 else []
        layers.append(nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False))
    return Preactivated(*layers)
