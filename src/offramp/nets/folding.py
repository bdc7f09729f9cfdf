"""Batch norms folded into the convolutions before them, for inference only."""

import copy
from typing import Protocol, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from offramp.nets.layers import ConvNormReLU


@runtime_checkable
class Foldable(Protocol):
    """A layer with an inference form of its own."""

    def folded(self) -> nn.Module:
        """That form: what the layer gives in eval mode, up to rounding."""
        ...


class ConvReLU(nn.Conv2d):
    """Convolution with bias, then ReLU; "same" padding for odd kernels; nothing to train.

    Args:
        weight: (out, in, kernel, kernel).
        bias: (out,).
        stride: of the convolution.
        groups: of the convolution.
    """

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, groups: int = 1) -> None:
        out_channels, in_channels, kernel_size, _ = weight.shape
        # On the meta device, since what would be drawn there is replaced at once.
        super().__init__(
            groups * in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, device="meta"
        )
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias: nn.Parameter = nn.Parameter(bias, requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        """(N, out, H, W) of (N, in, H, W)."""
        return F.relu_(super().forward(features))


class SpatialMean(nn.Module):
    """Pooling to one pixel that keeps no trace of the batch size in an exported graph, as flattening would."""

    def forward(self, features: Tensor) -> Tensor:
        """(N, C) of (N, C, H, W)."""
        return features.mean((2, 3))


class ScaleReLU(nn.Module):
    """A norm that no convolution precedes, then ReLU: channel by channel ``relu(scale * x + shift)``.

    Args:
        norm: whose values it takes, in float32.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().float()
        shift = (norm.bias - norm.running_mean * scale).detach().float()
        self.scale = nn.Parameter(scale[:, None, None], requires_grad=False)
        self.shift = nn.Parameter(shift[:, None, None], requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        """The same shape."""
        return F.relu_(torch.addcmul(self.shift, features, self.scale))


def fold(layer: ConvNormReLU) -> ConvReLU:
    """The same layer in eval mode, as one convolution, in float32."""
    conv, norm, _ = layer
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return fold_pair(conv, norm)


def fold_pair(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> ConvReLU:
    """A convolution, the norm that alone reads it, and a ReLU, as one convolution in float32."""
    weight, bias = _folded(conv, norm)
    return ConvReLU(weight, bias, conv.stride[0], conv.groups)


def fold_conv(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A convolution and the norm that alone reads it, as one convolution in float32."""
    weight, bias = _folded(conv, norm)
    made = copy.deepcopy(conv)
    made.weight = nn.Parameter(weight, requires_grad=False)
    made.bias = nn.Parameter(bias, requires_grad=False)
    return made


@torch.no_grad()
def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        conv.weight.float(), conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return weight.detach(), bias.detach()


def _fold_children(parent: nn.Module) -> None:
    for name, child in list(parent.named_children()):
        if isinstance(child, ConvNormReLU):
            setattr(parent, name, fold(child))
        elif isinstance(child, Foldable):
            setattr(parent, name, child.folded())
        else:
            _fold_children(child)


N = TypeVar("N", bound=nn.Module)


def fold_all(net: N) -> N:
    """A float32 copy of ``net`` in eval mode in which norms are folded into convolutions where that can be."""
    folded = copy.deepcopy(net).float().eval().requires_grad_(False)
    _fold_children(folded)
    # A bias costs nothing, and takes up what rounding weights adds to a channel on average.
    for conv in folded.modules():
        if isinstance(conv, nn.Conv2d) and conv.bias is None:
            conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels), requires_grad=False)
    return folded
