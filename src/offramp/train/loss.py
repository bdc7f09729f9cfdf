"""Losses over all exits."""

import torch
import torch.nn.functional as F
from torch import Tensor

from offramp.errors import ConfigError


def exit_losses(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of each exit, (K,), for logits (K, N, C) and labels (N,)."""
    return torch.stack([F.cross_entropy(one.float(), labels, label_smoothing=label_smoothing) for one in logits])


def exit_weights(weights: tuple[float, ...], num_exits: int) -> Tensor:
    """The weights w_k of the loss Σ w_k·CE_k, (K,); all 1 where none are given (paper §4)."""
    if weights and len(weights) != num_exits:
        raise ConfigError(
            f"loss_weights={weights}: this network has {num_exits} exits; give as many, or none for all 1"
        )
    return torch.tensor(weights or (1.0,) * num_exits)
