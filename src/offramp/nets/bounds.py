"""Norms and ReLUs before 1x1 convolutions as bounds: one pass over the maps instead of two.

With s and b the scale and shift of a channel's norm, ``relu(s x + b)`` is ``s max(x, -b / s) + b``, for negative s with the
minimum; s becomes part of the weights of the convolution that reads it, and b of its bias. That is exact but for rounding,
which in float32 nobody sees. In bfloat16 what a channel adds to a sum and what the bias takes off again no longer cancel
well, and 8-bit integers would have to hold channels of all sizes: there norms stay.

ONNX Runtime runs two DenseNets 1.06 to 1.14 times as fast with them, for it makes four passes of a norm and ReLU. OpenVINO
takes as long with and without; so does eager PyTorch, within the noise, and is left as it is (benchmarks/bounds.py).
"""

from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from offramp.nets.folding import ScaleReLU

FARTHEST = 1e30
"""A norm whose zero lies farther from 0 than that gives a constant: float32 could hardly hold the bound."""


@runtime_checkable
class Boundable(Protocol):
    """Part of an inference form with a norm that can become bounds."""

    def norm_to_bounds(self) -> None:
        """Let it become them."""
        ...


class NormAsBounds(NamedTuple):
    """``clamp(x, lower, upper) * scale + shift`` is what a norm and ReLU give; each (C,)."""

    lower: Tensor
    upper: Tensor
    scale: Tensor
    shift: Tensor


class Bounds(nn.Module):
    """Limits each channel.

    Args:
        lower: (C,), -inf where there is none.
        upper: (C,), inf where there is none.
    """

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        super().__init__()
        self.lower = _kept(lower) if (lower > -torch.inf).any() else None
        self.upper = _kept(upper) if (upper < torch.inf).any() else None

    def forward(self, features: Tensor) -> Tensor:
        """The same shape."""
        if self.lower is not None:
            features = torch.maximum(features, self.lower)
        return features if self.upper is None else torch.minimum(features, self.upper)


N = TypeVar("N", bound=nn.Module)


def with_bounds(net: N) -> N:
    """Change an inference form, in place, to one for float32 with bounds where a 1x1 convolution follows."""
    for part in list(net.modules()):
        if isinstance(part, Boundable):
            part.norm_to_bounds()
    return net


def as_bounds(norm: ScaleReLU) -> NormAsBounds:
    """A norm and ReLU, taken apart."""
    scale, shift = norm.scale.flatten(), norm.shift.flatten()
    varies = scale.abs() * FARTHEST > shift.abs()
    zero = torch.where(varies, -shift / scale, 0)
    lower = torch.where(varies & (scale > 0), zero, -torch.inf)
    upper = torch.where(varies & (scale < 0), zero, torch.inf)
    return NormAsBounds(lower, upper, torch.where(varies, scale, 0), torch.where(varies, shift, shift.relu()))


def bounds_before(conv: nn.Conv2d, norm: nn.Module) -> nn.Module:
    """What stands for a norm before a 1x1 convolution with bias, whose weights change; the norm itself before others."""
    if not isinstance(norm, ScaleReLU) or conv.kernel_size != (1, 1):  # padding would have to be shifted too
        return norm
    found = as_bounds(norm)
    weight, bias = absorbed(conv.weight.view(conv.groups, -1, conv.weight.shape[1]), found)
    assert conv.bias is not None
    conv.weight = nn.Parameter(weight.view_as(conv.weight), requires_grad=False)
    conv.bias = nn.Parameter(conv.bias + bias.flatten(), requires_grad=False)
    return Bounds(found.lower, found.upper)


def absorbed(weight: Tensor, norm: NormAsBounds) -> tuple[Tensor, Tensor]:
    """Weights (groups, out, in) and what is to be added to the bias (groups, out), with scale and shift of their inputs."""
    groups = len(weight)
    return weight * norm.scale.view(groups, 1, -1), (weight * norm.shift.view(groups, 1, -1)).sum(2)


def _kept(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach()[:, None, None].clone(), requires_grad=False)
