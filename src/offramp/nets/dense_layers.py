"""The parts of densely connected networks."""

import torch.nn.functional as F
from torch import Tensor, nn

from offramp.nets import recompute
from offramp.nets.bounds import bounds_before
from offramp.nets.chain import Features, joined
from offramp.nets.folding import ScaleReLU, SpatialMean, fold_pair
from offramp.nets.pruning import unmasked
from offramp.nets.recompute import Recompute


class NormReLU(nn.Module):
    """Batch norm, then ReLU; overwrites nothing it was given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        """The same shape."""
        return F.relu_(self.norm(features))

    def folded(self) -> nn.Module:
        """As a scale, where nothing has taken it in."""
        return ScaleReLU(self.norm)


class DenseLayer(nn.Module):
    """Norm, ReLU and convolution, twice with a bottleneck and else once; its maps are added to those it reads.

    Args:
        bottleneck: the 1x1 convolution, if there is one.
        conv: the 3x3 convolution.
        before: dropout rate before the bottleneck.
        after: dropout rate behind each convolution.
    """

    recompute: Recompute = "none"
    dense = True

    def __init__(
        self, bottleneck: nn.Conv2d | None, conv: nn.Conv2d, *, before: float = 0.0, after: float = 0.0
    ) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        if bottleneck is not None:
            self.norm1 = NormReLU(bottleneck.in_channels)
            self.before = nn.Dropout(before)
        self.norm2 = NormReLU(conv.in_channels)
        self.conv = conv
        self.after = nn.Dropout(after)

    def forward(self, features: Features) -> Features:
        """What it was given, and the maps (N, growth rate, H, W) it adds."""
        if self.bottleneck is None:
            return *features, self.after(recompute.run(self._grow, self, self.recompute != "none", *features))
        if self.recompute == "all":
            return *features, recompute.run(self._whole, self, True, *features)
        middle = recompute.run(self._enter, self, self.recompute == "layers", *features)
        return *features, self._leave(middle)

    def _enter(self, *features: Tensor) -> Tensor:
        return self.bottleneck(self.before(self.norm1(joined(features))))  # type: ignore[misc, no-any-return]

    def _leave(self, middle: Tensor) -> Tensor:
        return self.after(self._grow(self.after(middle)))  # type: ignore[no-any-return]

    def _grow(self, *features: Tensor) -> Tensor:
        return self.conv(self.norm2(joined(features)))  # type: ignore[no-any-return]

    def _whole(self, *features: Tensor) -> Tensor:
        return self._leave(self._enter(*features))

    def folded(self) -> nn.Module:
        """With the second norm in the bottleneck."""
        if self.bottleneck is None:
            return FoldedLayer(self.norm2.folded(), self.conv)
        return FoldedLayer(self.norm1.folded(), fold_pair(unmasked(self.bottleneck), self.norm2.norm), self.conv)


class FoldedLayer(nn.Sequential):
    """Inference form of a :class:`DenseLayer`."""

    def forward(self, features: Features) -> Features:
        """What it was given, and the maps it adds."""
        return *features, super().forward(joined(features))  # type: ignore[no-untyped-call]

    def norm_to_bounds(self) -> None:
        """The first norm, where a bottleneck follows."""
        assert isinstance(self[1], nn.Conv2d)
        self[0] = bounds_before(self[1], self[0])


class Transition(nn.Module):
    """Norm, ReLU, 1x1 convolution and 2x2 average pooling between blocks.

    Args:
        conv: the convolution.
        before: dropout rate before it.
        after: dropout rate behind it.
    """

    recompute: Recompute = "none"
    dense = False

    def __init__(self, conv: nn.Conv2d, *, before: float = 0.0, after: float = 0.0) -> None:
        super().__init__()
        self.norm = NormReLU(conv.in_channels)
        self.before = nn.Dropout(before)
        self.conv = conv
        self.after = nn.Dropout(after)

    def forward(self, features: Features) -> Features:
        """One map of half the size."""
        narrow = recompute.run(self._narrow, self, self.recompute != "none", *features)
        return (F.avg_pool2d(self.after(narrow), 2),)

    def _narrow(self, *features: Tensor) -> Tensor:
        return self.conv(self.before(self.norm(joined(features))))  # type: ignore[no-any-return]

    def folded(self) -> nn.Module:
        """With the pooling before the convolution, where it is the same and leaves a quarter of the work."""
        return FoldedTransition(self.norm.folded(), nn.AvgPool2d(2), unmasked(self.conv))


class FoldedTransition(nn.Sequential):
    """Inference form of a :class:`Transition`."""

    def forward(self, features: Features) -> Features:
        """One map of half the size."""
        return (super().forward(joined(features)),)  # type: ignore[no-untyped-call]

    def norm_to_bounds(self) -> None:
        """The norm; what the convolution reads is pooled in between, which changes nothing."""
        assert isinstance(self[2], nn.Conv2d)
        self[0] = bounds_before(self[2], self[0])


class PooledExit(nn.Module):
    """Norm, ReLU, global average pooling, linear layer."""

    recompute: Recompute = "none"
    dense = False

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = NormReLU(in_channels)
        self.linear: nn.Module = nn.Linear(in_channels, num_classes)

    def forward(self, features: Features) -> Tensor:
        """Logits (N, classes)."""
        return self.linear(recompute.run(self.pooled, self, self.recompute != "none", *features))  # type: ignore[no-any-return]

    def pooled(self, *features: Tensor) -> Tensor:
        """What the linear layer reads, (N, C)."""
        return self.norm(joined(features)).mean((2, 3))  # type: ignore[no-any-return]

    def folded(self) -> nn.Module:
        """With the norm as a scale."""
        return FoldedExit(self.norm.folded(), SpatialMean(), self.linear)


class FoldedExit(nn.Sequential):
    """Inference form of a :class:`PooledExit`."""

    def forward(self, features: Features) -> Tensor:
        """Logits (N, classes)."""
        return super().forward(joined(features))  # type: ignore[no-untyped-call, no-any-return]
