"""How this process holds its memory, and what training keeps in it."""

import ctypes

import torch
from torch import Tensor, nn

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""
_LARGEST = (1 << 31) - 1


def keep_memory() -> None:
    """Let the C library keep what is freed, so that the next step's tensors need no new pages from the system.

    Every tensor above 32 MB, and many below, otherwise come as pages that the system has to clear anew in each step. For
    processes that do the same work over and over, as the commands do (figures: benchmarks/results/train_step.md and
    kept_memory.md). Where the C library is not glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _LARGEST)


def kept_bytes(net: nn.Module, images: Tensor) -> int:
    """Of all that a step of training keeps for backward but the weights, each storage once.

    Args:
        net: in training mode.
        images: normalised, (N, C, H, W).
    """
    weights = {weight.untyped_storage().data_ptr() for weight in net.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # itself, it would keep alive what keeps it

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        net(images)
    return sum(kept.values())
