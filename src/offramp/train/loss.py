"""Losses over all exits."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor

from offramp.errors import ConfigError
from offramp.train.recipe import LossBudgets, Recipe


def exit_losses(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of each exit, (K,), for logits (K, N, C) and labels (N,) or class probabilities (N, C)."""
    return torch.stack([F.cross_entropy(one.float(), targets, label_smoothing=label_smoothing) for one in logits])


def exit_weights(recipe: Recipe, costs: Sequence[float]) -> Tensor:
    """The weights w_k of the loss Σ w_k·CE_k, (K,); all 1 unless told otherwise (paper, section 4).

    Args:
        recipe: weights as given, or a distribution of budgets.
        costs: of the exits, rising, in any unit, (K,).
    """
    if recipe.loss_weights and len(recipe.loss_weights) != len(costs):
        raise ConfigError(
            f"loss_weights={recipe.loss_weights}: this network has {len(costs)} exits; give as many, or none for all 1"
        )
    return torch.tensor(recipe.loss_weights or budget_weights(recipe.loss_budgets, costs))


def budget_weights(budgets: LossBudgets, costs: Sequence[float]) -> tuple[float, ...]:
    """Weights proportional to the probability that a forced exit falls after exit k and before the next, mean 1, (K,).

    The idea is the paper's (Huang et al., arXiv:1703.09844, section 5.1, figure 3); it gives no parameters. Here budgets
    are uniform up to where one more stage as dear as the last would end; exponential (Poisson interrupts) with half the last
    exit's cost as mean; or normal around the middle of the exits' costs with a quarter of their range as deviation. Budgets
    too small for exit 0 have no answer and no part.
    """
    if budgets == "equal" or len(costs) == 1:
        return (1.0,) * len(costs)
    first, last = costs[0], costs[-1]

    def below(cost: float) -> float:
        if budgets == "uniform":
            return cost / (2 * last - costs[-2])
        if budgets == "exponential":
            return 1 - math.exp(-2 * cost / last)
        return NormalDist((first + last) / 2, (last - first) / 4).cdf(cost)

    reached = [*map(below, costs), 1.0]
    shares = [after - before for before, after in pairwise(reached)]
    return tuple(len(costs) * share / sum(shares) for share in shares)
