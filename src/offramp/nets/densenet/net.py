"""The DenseNet itself."""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from offramp.nets import recompute
from offramp.nets.chain import ChainNet, ChainStage, Features, joined
from offramp.nets.densenet.config import DenseNetConfig
from offramp.nets.folding import ScaleReLU, SpatialMean, fold_pair
from offramp.nets.layers import ConvNormReLU, he_fan_out_
from offramp.nets.recompute import Recompute


class NormReLU(nn.BatchNorm2d):
    """Batch norm, then ReLU; overwrites nothing it was given."""

    def forward(self, features: Tensor) -> Tensor:
        """The same shape."""
        return F.relu_(super().forward(features))


class Stem(nn.Module):
    """From images to the first map."""

    def __init__(self, config: DenseNetConfig) -> None:
        super().__init__()
        if config.stem == "large":
            self.conv: nn.Module = nn.Sequential(
                ConvNormReLU(config.image_channels, config.channels, 7, stride=2), nn.MaxPool2d(3, 2, 1)
            )
        else:
            self.conv = nn.Conv2d(config.image_channels, config.channels, 3, padding=1, bias=False)

    def forward(self, features: Features) -> Features:
        """One map."""
        (images,) = features
        return (self.conv(images),)


class DenseLayer(nn.Module):
    """Norm, ReLU and convolution, twice with a bottleneck and else once; its maps are added to those it reads."""

    recompute: Recompute = "none"

    def __init__(self, in_channels: int, growth_rate: int, config: DenseNetConfig) -> None:
        super().__init__()
        middle = config.bottleneck_factor * growth_rate
        self.bottleneck: nn.Module | None = None
        if middle:
            self.norm1 = NormReLU(in_channels)
            self.bottleneck = nn.Conv2d(in_channels, middle, 1, bias=False)
        self.norm2 = NormReLU(middle or in_channels)
        self.conv = nn.Conv2d(middle or in_channels, growth_rate, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: Features) -> Features:
        """What it was given, and the maps (N, growth rate, H, W) it adds."""
        if self.bottleneck is None:
            return *features, self.dropout(recompute.run(self._grow, self, self.recompute != "none", *features))
        if self.recompute == "all":
            return *features, recompute.run(self._whole, self, True, *features)
        middle = recompute.run(self._enter, self, self.recompute == "layers", *features)
        return *features, self._leave(middle)

    def _enter(self, *features: Tensor) -> Tensor:
        return self.bottleneck(self.norm1(joined(features)))  # type: ignore[misc, no-any-return]

    def _leave(self, middle: Tensor) -> Tensor:
        return self.dropout(self._grow(self.dropout(middle)))  # type: ignore[no-any-return]

    def _grow(self, *features: Tensor) -> Tensor:
        return self.conv(self.norm2(joined(features)))  # type: ignore[no-any-return]

    def _whole(self, *features: Tensor) -> Tensor:
        return self._leave(self._enter(*features))

    def folded(self) -> nn.Module:
        """With the second norm in the bottleneck."""
        if self.bottleneck is None:
            return FoldedLayer(ScaleReLU(self.norm2), self.conv)
        assert isinstance(self.bottleneck, nn.Conv2d)
        return FoldedLayer(ScaleReLU(self.norm1), fold_pair(self.bottleneck, self.norm2), self.conv)


class FoldedLayer(nn.Sequential):
    """Inference form of a :class:`DenseLayer`."""

    def forward(self, features: Features) -> Features:
        """What it was given, and the maps it adds."""
        return *features, super().forward(joined(features))  # type: ignore[no-untyped-call]


class Transition(nn.Module):
    """Norm, ReLU, 1x1 convolution and 2x2 average pooling between blocks."""

    recompute: Recompute = "none"

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.norm = NormReLU(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Features) -> Features:
        """One map of half the size."""
        narrow = recompute.run(self._narrow, self, self.recompute != "none", *features)
        return (F.avg_pool2d(self.dropout(narrow), 2),)

    def _narrow(self, *features: Tensor) -> Tensor:
        return self.conv(self.norm(joined(features)))  # type: ignore[no-any-return]

    def folded(self) -> nn.Module:
        """With the pooling before the convolution, where it is the same and leaves a quarter of the work."""
        return FoldedTransition(ScaleReLU(self.norm), nn.AvgPool2d(2), self.conv)


class FoldedTransition(nn.Sequential):
    """Inference form of a :class:`Transition`."""

    def forward(self, features: Features) -> Features:
        """One map of half the size."""
        return (super().forward(joined(features)),)  # type: ignore[no-untyped-call]


class PooledExit(nn.Module):
    """Norm, ReLU, global average pooling, linear layer."""

    recompute: Recompute = "none"

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = NormReLU(in_channels)
        self.linear = nn.Linear(in_channels, num_classes)

    def forward(self, features: Features) -> Tensor:
        """Logits (N, classes)."""
        return self.linear(recompute.run(self._pool, self, self.recompute != "none", *features))  # type: ignore[no-any-return]

    def _pool(self, *features: Tensor) -> Tensor:
        return self.norm(joined(features)).mean((2, 3))  # type: ignore[no-any-return]

    def folded(self) -> nn.Module:
        """With the norm as a scale."""
        return FoldedExit(ScaleReLU(self.norm), SpatialMean(), self.linear)


class FoldedExit(nn.Sequential):
    """Inference form of a :class:`PooledExit`."""

    def forward(self, features: Features) -> Tensor:
        """Logits (N, classes)."""
        return super().forward(joined(features))  # type: ignore[no-untyped-call, no-any-return]


class DenseNet(ChainNet):
    """Densely connected network (Huang et al., arXiv:1608.06993), with as many exits as its config says.

    A layer reads the maps of all earlier layers of its block, and so does an exit within a block.
    """

    def __init__(self, config: DenseNetConfig) -> None:
        super().__init__(_stages(config), config.smallest_image)
        self.config: DenseNetConfig = config
        he_fan_out_(self)


def _stages(config: DenseNetConfig) -> Iterator[ChainStage]:
    parts: list[nn.Module] = [Stem(config)]
    width, layer = config.channels, 0
    for block, (layers, growth_rate) in enumerate(zip(config.layers, config.growth_rates, strict=True)):
        if block:
            narrow = config.transition_channels[block - 1]
            parts.append(Transition(width, narrow, config.dropout))
            width = narrow
        for _ in range(layers):
            parts.append(DenseLayer(width, growth_rate, config))
            width += growth_rate
            layer += 1
            if layer in config.exit_layers:
                yield ChainStage(parts, PooledExit(width, config.num_classes), last=False)
                parts = []
    yield ChainStage(parts, PooledExit(width, config.num_classes), last=True)
