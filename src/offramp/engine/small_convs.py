"""Small convolutions as matrix products, which a compiler fuses with what stands before and behind them."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.nets.folding import ConvReLU

LARGEST_MACS = 4_000_000
"""Of a convolution that is computed so, per image. Above it, the time of the call itself no longer matters."""


class SmallConv(nn.Module):
    """A convolution with ReLU that becomes one matrix product when it is traced for small feature maps.

    Args:
        conv: 1x1 of stride 1, or any other size and stride.
    """

    def __init__(self, conv: ConvReLU) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, features: Tensor) -> Tensor:
        """(N, out, H, W) of (N, in, H, W)."""
        size, stride = self.conv.kernel_size[0], self.conv.stride[0]
        out_h, out_w = ((side - 1) // stride + 1 for side in features.shape[2:])
        if self.conv.weight.numel() * out_h * out_w > LARGEST_MACS:
            return self.conv(features)  # type: ignore[no-any-return]
        edge = size // 2
        rows = F.pad(features, (edge,) * 4).permute(0, 2, 3, 1)
        ends = stride * (out_h - 1) + 1, stride * (out_w - 1) + 1
        columns = torch.cat(
            [
                rows[:, top : top + ends[0] : stride, left : left + ends[1] : stride]
                for top in range(size)
                for left in range(size)
            ],
            dim=-1,
        )
        weight = self.conv.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(columns, weight, self.conv.bias).relu().permute(0, 3, 1, 2)


def with_small_convs(module: nn.Module) -> nn.Module:
    """A copy in which every :class:`ConvReLU` without groups is a :class:`SmallConv`."""
    changed = copy.deepcopy(module)
    for parent in list(changed.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ConvReLU) and child.groups == 1:
                setattr(parent, name, SmallConv(child))
    return changed
