"""The running average of a network that becomes the model."""

import copy

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """W ← decay · W + (1 - decay) · W_net over weights and norm statistics, begun with the network after step one.

    Its state is that of PyTorch's ``AveragedModel``, which sends its counter to the device in every step, so that the host
    has to wait. Whole numbers, such as how many batches a norm has seen, are copied, not averaged.

    Args:
        net: on its device for good; its tensors are read at each update.
        decay: share of the average that stays.
    """

    n_averaged: Tensor

    def __init__(self, net: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(net)
        self.register_buffer("n_averaged", torch.tensor(0))  # stays on the CPU, where asking it costs nothing
        self._decay = decay
        pairs = list(zip(_tensors(self.module), _tensors(net), strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network as it is now."""
        first = not self.n_averaged
        ours, theirs = _columns(self._copied + self._averaged if first else self._copied)
        if ours:
            torch._foreach_copy_(ours, theirs)
        if not first:
            torch._foreach_lerp_(*_columns(self._averaged), 1 - self._decay)
        self.n_averaged += 1


def _tensors(net: nn.Module) -> list[Tensor]:
    return [*net.parameters(), *net.buffers()]


def _columns(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]
