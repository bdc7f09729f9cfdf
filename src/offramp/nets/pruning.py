"""Learned group convolutions: which inputs a group of outputs reads is found in training (Huang et al., arXiv:1711.09224).

Weights stay dense; a mask says which are still used. Training drives it: :func:`condense` before every step, and
:func:`group_lasso` in the loss where wanted. Neither running a network nor evaluating it changes a mask.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.errors import ConfigError


class LearnedGroupConv(nn.Conv2d):
    """A 1x1 convolution that loses inputs while it learns, the same number in each group of its outputs.

    Output channel o belongs to group ``o % learned_groups``. Once it is done, each group reads one in ``condense_factor``
    inputs.

    Args:
        in_channels: a multiple of ``learned_groups`` and of ``condense_factor``.
        out_channels: a multiple of ``learned_groups``.
        learned_groups: G.
        condense_factor: C; inputs are dropped in C - 1 portions.

    Raises:
        ConfigError: they are not.
    """

    mask: Tensor

    def __init__(self, in_channels: int, out_channels: int, learned_groups: int, condense_factor: int) -> None:
        for what, channels, by, divisor in (
            ("inputs", in_channels, "groups", learned_groups),
            ("inputs", in_channels, "condense_factor", condense_factor),
            ("outputs", out_channels, "groups", learned_groups),
        ):
            if channels % divisor:
                raise ConfigError(f"{by}={divisor}: does not divide the {channels} {what} of a learned convolution")
        super().__init__(in_channels, out_channels, 1, bias=False)
        self.learned_groups, self.condense_factor = learned_groups, condense_factor
        self.register_buffer("mask", torch.ones_like(self.weight, dtype=torch.bool))

    def forward(self, features: Tensor) -> Tensor:
        """(N, out, H, W) of (N, in, H, W)."""
        return F.conv2d(features, self.masked_weight())

    def masked_weight(self) -> Tensor:
        """(out, in, 1, 1), 0 where the mask is."""
        return self.weight * self.mask

    @property
    def stage(self) -> int:
        """Portions dropped so far, 0 … C - 1; a GPU is waited for."""
        dropped = self.in_channels - int(self.by_group(self.mask).any(0)[0].sum())
        return dropped // (self.in_channels // self.condense_factor)

    def by_group(self, weights: Tensor) -> Tensor:
        """(outputs of a group, G, in) of weights (out, in, 1, 1)."""
        return weights.view(-1, self.learned_groups, self.in_channels)

    @torch.no_grad()
    def condense(self, stage: int) -> None:
        """Drop the least important inputs of each group, up to this many portions; those that are gone stay so.

        An input's importance to a group is the sum of its absolute weights there (section 4.1).
        """
        importance = self.by_group(self.masked_weight().abs()).sum(0)
        importance = importance.masked_fill(~self.by_group(self.mask).any(0), -1)
        least = importance.argsort(dim=1, stable=True)[:, : stage * (self.in_channels // self.condense_factor)]
        kept = torch.ones_like(importance, dtype=torch.bool).scatter_(1, least, False)
        self.by_group(self.mask).logical_and_(kept)

    def lasso(self) -> Tensor:
        """Sum over groups and inputs of the weights' norm, which draws whole groups to 0 (section 4.1)."""
        return self.by_group(self.masked_weight()).square().sum(0).clamp(min=1e-6).sqrt().sum()


def unmasked(conv: nn.Conv2d) -> nn.Conv2d:
    """An ordinary convolution that gives the same; of a learned one a copy, of others itself."""
    if not isinstance(conv, LearnedGroupConv):
        return conv
    plain = nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=False, device="meta")
    plain.weight = nn.Parameter(conv.masked_weight().detach(), requires_grad=False)
    return plain


def learned_convs(net: nn.Module) -> list[LearnedGroupConv]:
    """All of a network."""
    return [module for module in net.modules() if isinstance(module, LearnedGroupConv)]


def stage_at(progress: float, condense_factor: int) -> int:
    """Portions that are to be gone after this share of a training.

    They go at equal distances in its first half; the second half trains what is left (section 4.2).
    """
    last = condense_factor - 1
    return next((stage for stage in range(last) if 2 * progress < (stage + 1) / last), last)


def condense(net: nn.Module, progress: float, since: float | None = None) -> None:
    """Drop what is due after this share of a training, in every learned convolution of a network.

    Convolutions that do not learn keep their inputs.

    Args:
        net: any network.
        progress: share of the training that is done.
        since: the share up to which this has been done before, if that is known: nothing is looked at in between.
    """
    for conv in learned_convs(net):
        if not conv.weight.requires_grad:
            continue
        stage = stage_at(progress, conv.condense_factor)
        if since is None or stage != stage_at(since, conv.condense_factor):
            conv.condense(stage)


def group_lasso(net: nn.Module, progress: float) -> Tensor:
    """The sum of :meth:`LearnedGroupConv.lasso` over those that are to drop portions after this share of a training."""
    due = (conv for conv in learned_convs(net) if stage_at(progress, conv.condense_factor) < conv.condense_factor - 1)
    return sum((conv.lasso() for conv in due), torch.zeros(()))
