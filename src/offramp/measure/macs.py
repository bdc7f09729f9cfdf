"""Multiply-accumulates, counted by hooks while the network really runs.

One MAC is one multiply-add of a convolution or linear layer; norms, ReLUs, pooling, biases and copies count nothing.
"""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from offramp.nets.base import MultiExitNet
from offramp_runtime.costs import Costs


@dataclass
class MacCount:
    """A running total."""

    macs: int = 0


@contextlib.contextmanager
def count_macs(module: nn.Module) -> Iterator[MacCount]:
    """Count what ``module``'s convolutions and linear layers do inside the block."""
    count = MacCount()

    def add(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            kh, kw = layer.kernel_size
            count.macs += output.numel() * (layer.in_channels // layer.groups) * kh * kw
        elif isinstance(layer, nn.Linear):
            count.macs += output.numel() * layer.in_features

    hooks = [layer.register_forward_hook(add) for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    try:
        yield count
    finally:
        for hook in hooks:
            hook.remove()


def staged_macs(net: MultiExitNet) -> Costs:
    """MACs of one image up to each exit when stages run one after the other, (K,)."""
    twin, image = _twin(net)
    totals = []
    with count_macs(twin) as count, torch.inference_mode():
        state = twin.start(image)
        for k in range(twin.num_exits):
            state, _ = twin.step(k, state)
            totals.append(float(count.macs))
    return Costs(tuple(totals), "MAC")


def direct_macs(net: MultiExitNet) -> Costs:
    """MACs of one image that goes straight to exit k, (K,)."""
    twin, image = _twin(net)
    totals = []
    for k in range(twin.num_exits):
        with count_macs(twin) as count, torch.inference_mode():
            twin.direct(k, image)
        totals.append(float(count.macs))
    return Costs(tuple(totals), "MAC", kind="direct")


def _twin(net: MultiExitNet) -> tuple[MultiExitNet, Tensor]:
    """A copy in eval mode that shares the weights, so that ``net`` never sees the hooks, and a black image for it.

    One image on the network's own device takes milliseconds; the meta device first imports a compiler (seconds).
    """
    tensors = [*net.parameters(), *net.buffers()]
    twin = copy.deepcopy(net, {id(tensor): tensor for tensor in tensors}).eval()
    side = net.config.image_size
    return twin, tensors[0].new_zeros(1, net.config.image_channels, side, side)
