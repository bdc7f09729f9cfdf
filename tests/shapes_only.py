"""Networks through which only shapes flow, to count on."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from offramp.measure.macs import count_macs
from offramp.nets.base import MultiExitNet


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Let networks be built and run on the meta device, quickly.

    On that device each norm costs a millisecond of Python and each initialisation as much. Norms and ReLUs keep the shape
    and count no MAC, so they hand their input through; weights stay as allocated.
    """

    def same(_self: nn.Module, images: Tensor) -> Tensor:
        return images

    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setattr(nn.BatchNorm2d, "forward", same)
        patch.setattr(nn.ReLU, "forward", same)
        patch.setattr("torch.nn.functional.relu_", lambda images: images)
        for kind in (nn.Conv2d, nn.Linear):
            patch.setattr(kind, "reset_parameters", lambda _self: None)
        yield


def image(net: MultiExitNet) -> Tensor:
    """One image, of the network's size."""
    config = net.config
    return torch.empty(1, config.image_channels, config.image_size, config.image_size, device="meta")


def staged(net: MultiExitNet) -> list[int]:
    """MACs up to each exit."""
    totals = []
    with count_macs(net) as count, torch.inference_mode():
        state = net.start(image(net))
        for k in range(net.num_exits):
            state, _ = net.step(k, state)
            totals.append(count.macs)
    return totals


def parameters(net: nn.Module) -> int:
    """How many."""
    return sum(parameter.numel() for parameter in net.parameters())


def norm_elements(net: MultiExitNet) -> int:
    """Numbers that norms are given for one image."""
    elements: list[int] = []
    hooks = [
        module.register_forward_hook(lambda _norm, _given, out: elements.append(out.numel()))
        for module in net.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.inference_mode():
        net(image(net))
    for hook in hooks:
        hook.remove()
    return sum(elements)
