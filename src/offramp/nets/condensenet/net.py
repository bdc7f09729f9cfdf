"""The CondenseNet itself, before and after conversion."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.nets.base import MultiExitNet
from offramp.nets.bounds import Bounds, NormAsBounds, absorbed, as_bounds, bounds_before
from offramp.nets.chain import ChainNet, ChainStage, Features, Ordinary, joined
from offramp.nets.condensenet.config import CondenseNetConfig, Form
from offramp.nets.dense_layers import DenseLayer, PooledExit, Transition
from offramp.nets.folding import ConvReLU, ScaleReLU, fold_all, fold_pair
from offramp.nets.pruning import LearnedGroupConv


class GatheredLayer(DenseLayer):
    """A dense layer whose bottleneck, once learned, is a grouped convolution of the inputs its groups have kept.

    Args:
        bottleneck: the grouped convolution.
        conv: the 3x3 convolution.
        shuffles: whether the bottleneck's outputs are put into the order they had before conversion.
    """

    index: Tensor

    def __init__(self, bottleneck: nn.Conv2d, conv: nn.Conv2d, *, shuffles: bool) -> None:
        super().__init__(bottleneck, conv)
        self.register_buffer("index", torch.zeros(bottleneck.in_channels, dtype=torch.long))
        self.shuffles = shuffles

    @property
    def order(self) -> Tensor:
        """The channel, in the order before conversion, that each output of the bottleneck is."""
        assert self.bottleneck is not None
        places = torch.arange(self.bottleneck.out_channels, device=self.index.device)
        return places.view(-1, self.bottleneck.groups).t().flatten()

    def _enter(self, *features: Tensor) -> Tensor:
        assert self.bottleneck is not None
        middle = super()._enter(joined(features).index_select(1, self.index))
        return shuffled(middle, self.bottleneck.groups) if self.shuffles else middle

    def folded(self) -> nn.Module:
        """With the second norm in the bottleneck."""
        return FoldedGatheredLayer(self)


class FoldedGatheredLayer(nn.Module):
    """Inference form of a :class:`GatheredLayer`."""

    index: Tensor

    def __init__(self, layer: GatheredLayer) -> None:
        super().__init__()
        assert layer.bottleneck is not None
        self.register_buffer("index", layer.index)
        self.scale: nn.Module = layer.norm1.folded()
        self.conv, self.shuffles = layer.conv, layer.shuffles
        norm = reordered(layer.norm2.norm, layer.order) if layer.shuffles else layer.norm2.norm
        self.bottleneck = GroupedProduct(fold_pair(layer.bottleneck, norm))

    def forward(self, features: Features) -> Features:
        """What it was given, and the maps it adds."""
        middle = self.bottleneck(self.scale(gathered(features, self.index)))
        return *features, self.conv(shuffled(middle, self.bottleneck.groups) if self.shuffles else middle)

    def norm_to_bounds(self) -> None:
        """The first norm."""
        if isinstance(self.scale, ScaleReLU):
            norm = as_bounds(self.scale)
            self.scale = Bounds(norm.lower, norm.upper)
            self.bottleneck.absorb(norm)


class GroupedProduct(nn.Module):
    """A grouped 1x1 convolution with ReLU as one product of matrices per group, which costs less to call.

    Args:
        conv: the convolution.
    """

    def __init__(self, conv: ConvReLU) -> None:
        super().__init__()
        self.groups = conv.groups
        assert conv.bias is not None
        self.weight = nn.Parameter(conv.weight.view(conv.groups, -1, conv.weight.shape[1]), requires_grad=False)
        self.bias = nn.Parameter(conv.bias.view(conv.groups, -1, 1), requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        """(N, out, H, W) of (N, in, H, W)."""
        height, width = features.shape[2:]
        into = features.reshape(-1, self.groups, self.weight.shape[2], height * width)
        out = F.relu_(torch.matmul(self.weight, into).add_(self.bias))
        return out.view(-1, self.weight.shape[0] * self.weight.shape[1], height, width)

    def absorb(self, norm: NormAsBounds) -> None:
        """Scale and shift what it reads."""
        weight, bias = absorbed(self.weight, norm)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(self.bias + bias[..., None], requires_grad=False)


class GatheredTransition(Transition):
    """The same for the convolution of a transition."""

    index: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv)
        self.register_buffer("index", torch.zeros(conv.in_channels, dtype=torch.long))

    def _narrow(self, *features: Tensor) -> Tensor:
        return shuffled(super()._narrow(joined(features).index_select(1, self.index)), self.conv.groups)

    def folded(self) -> nn.Module:
        """With the pooling before the convolution."""
        return FoldedGatheredTransition(self)


class FoldedGatheredTransition(nn.Module):
    """Inference form of a :class:`GatheredTransition`."""

    index: Tensor

    def __init__(self, transition: GatheredTransition) -> None:
        super().__init__()
        self.register_buffer("index", transition.index)
        self.scale: nn.Module = transition.norm.folded()
        self.conv = transition.conv

    def forward(self, features: Features) -> Features:
        """One map of half the size."""
        pooled = F.avg_pool2d(self.scale(gathered(features, self.index)), 2)
        return (shuffled(self.conv(pooled), self.conv.groups),)

    def norm_to_bounds(self) -> None:
        """The norm."""
        self.scale = bounds_before(self.conv, self.scale)


class HalfLinear(nn.Linear):
    """A linear layer that reads only some of what it is given."""

    index: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features // 2, out_features)
        self.register_buffer("index", torch.zeros(in_features // 2, dtype=torch.long))

    def forward(self, features: Tensor) -> Tensor:
        """(N, out) of (N, in)."""
        return super().forward(features.index_select(1, self.index))


class CondenseNet(ChainNet):
    """A network whose 1x1 convolutions find their groups while it is trained (Huang et al., arXiv:1711.09224)."""

    config: CondenseNetConfig

    def __init__(self, config: CondenseNetConfig) -> None:
        super().__init__(config, [ChainStage(_parts(config), _exit(config), last=True)])

    def fused(self, align: int = 1, merge: bool = True, eager: bool = False) -> MultiExitNet:  # noqa: ARG002
        """A float32 copy for inference only, with norms folded; the same logits up to rounding.

        Args:
            align: changes nothing here.
            merge: changes nothing here.
            eager: whether layers of form ``grouped`` may write into a buffer (see ``buffered.py``).
        """
        from offramp.nets.condensenet.buffered import buffered

        folded = fold_all(self)
        return buffered(folded) if eager else folded


def shuffled(features: Tensor, groups: int) -> Tensor:
    """Output k of group g, which stands with its group, at place ``k * groups + g``."""
    _, channels, height, width = features.shape
    return (
        features.view(-1, groups, channels // groups, height, width)
        .transpose(1, 2)
        .reshape(-1, channels, height, width)
    )


def gathered(features: Features, index: Tensor) -> Tensor:
    """Some channels, in NCHW layout: there a channel is one piece of memory."""
    return joined(features).contiguous().index_select(1, index)


def reordered(norm: nn.BatchNorm2d, order: Tensor) -> nn.BatchNorm2d:
    """A copy for channels in another order, or for some of them, or for some several times."""
    made = nn.BatchNorm2d(len(order), norm.eps, device=norm.weight.device, dtype=norm.weight.dtype)
    made.load_state_dict({name: value[order] if value.ndim else value for name, value in norm.state_dict().items()})
    return made


def _parts(config: CondenseNetConfig) -> Iterator[nn.Module]:
    forms: Iterator[Form | None] = iter(config.forms or (None,) * config.num_learned)
    yield Ordinary(nn.Conv2d(config.image_channels, config.channels, 3, config.stem_stride, 1, bias=False))
    width = config.channels
    for block, (layers, growth_rate) in enumerate(zip(config.layers, config.growth_rates, strict=True)):
        for _ in range(layers):
            yield _layer(width, growth_rate, config, next(forms) if config.learned else None)
            width += growth_rate
        if block == len(config.layers) - 1:
            return
        if config.reduction:
            yield _transition(width, config.transition_channels[block], config, next(forms) if config.learned else None)
            width = config.transition_channels[block]
        else:
            yield Ordinary(nn.AvgPool2d(2))  # of all maps so far: later blocks read earlier ones too


def _layer(in_channels: int, growth_rate: int, config: CondenseNetConfig, form: Form | None) -> DenseLayer:
    middle = config.bottleneck_factor * growth_rate
    bottleneck = _conv1x1(in_channels, middle, config, form)
    groups = 1 if form in ("folded", "ungrouped") else config.groups_3x3
    conv = nn.Conv2d(middle, growth_rate, 3, padding=1, groups=groups, bias=False)
    if form in ("grouped", "folded"):
        return GatheredLayer(bottleneck, conv, shuffles=form == "grouped")
    return DenseLayer(bottleneck, conv, before=config.dropout if config.learned and form is None else 0.0)


def _transition(in_channels: int, out_channels: int, config: CondenseNetConfig, form: Form | None) -> Transition:
    conv = _conv1x1(in_channels, out_channels, config, form)
    if form == "grouped":
        return GatheredTransition(conv)
    return Transition(conv, before=config.dropout if config.learned and form is None else 0.0)


def _conv1x1(in_channels: int, out_channels: int, config: CondenseNetConfig, form: Form | None) -> nn.Conv2d:
    if not config.learned:
        return nn.Conv2d(in_channels, out_channels, 1, groups=config.groups, bias=False)
    if form is None:
        return LearnedGroupConv(in_channels, out_channels, config.groups, config.condense_factor)
    if form in ("dense", "ungrouped"):
        return nn.Conv2d(in_channels, out_channels, 1, bias=False)
    kept = in_channels // config.condense_factor * config.groups
    return nn.Conv2d(kept, out_channels, 1, groups=config.groups, bias=False)


def _exit(config: CondenseNetConfig) -> PooledExit:
    last_block_starts = (config.channels, *config.transition_channels)[-1]
    width = last_block_starts + config.layers[-1] * config.growth_rates[-1]
    classifier = PooledExit(width, config.num_classes)
    if config.condensed_classifier:
        classifier.linear = HalfLinear(width, config.num_classes)
    return classifier
