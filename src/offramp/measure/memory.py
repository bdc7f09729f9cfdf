"""What training keeps in memory."""

import torch
from torch import Tensor, nn


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
