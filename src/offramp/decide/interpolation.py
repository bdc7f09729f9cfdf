"""Interpolation between networks or exits: each image goes to one of two at random, which meets any mean cost between.

It is what static networks are compared by where a budget lies between them (Huang et al., arXiv:1703.09844, section 5), and
what a policy that looks at the images has to beat.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from offramp.errors import BudgetError, ConfigError
from offramp_runtime.budget import Outcome


def interpolate(costs: Sequence[float], accuracies: Sequence[float], budget: float) -> Outcome:
    """The most that can be had for a mean cost by sending each image to one network or another, whatever it shows.

    Args:
        costs: of one image in each network, (K,), in any order and unit.
        accuracies: of each network, 0 … 1, (K,).
        budget: mean cost per image, in that unit.

    Returns:
        Expected accuracy, mean cost (less than the budget where more would gain nothing), and the share of images each
        network gets, (K,); two of them at most get any.

    Raises:
        BudgetError: less than the cheapest network costs.
        ConfigError: no networks, or not as many accuracies as costs.
    """
    if not costs or len(costs) != len(accuracies):
        raise ConfigError(f"{len(costs)} costs, {len(accuracies)} accuracies: give both of each network, one at least")
    corners = envelope(costs, accuracies)
    cheapest, dearest = corners[0], corners[-1]
    if not budget >= costs[cheapest]:
        raise BudgetError(f"budget {budget:g}: even the cheapest network costs {costs[cheapest]:g}; raise the budget")
    shares = np.zeros(len(costs))
    if budget >= costs[dearest]:
        shares[dearest] = 1
    else:
        low, high = next((a, b) for a, b in pairwise(corners) if costs[a] <= budget < costs[b])
        shares[high] = (budget - costs[low]) / (costs[high] - costs[low])
        shares[low] = 1 - shares[high]
    return Outcome(float(shares @ np.asarray(accuracies)), float(shares @ np.asarray(costs)), tuple(shares.tolist()))


def envelope(costs: Sequence[float], accuracies: Sequence[float]) -> list[int]:
    """The networks between which interpolation pays, by rising cost: corners of the upper hull, up to the best of all."""
    corners: list[int] = []
    for one in sorted(range(len(costs)), key=lambda one: (costs[one], -accuracies[one])):
        if corners and accuracies[one] <= accuracies[corners[-1]]:
            continue
        while len(corners) > 1 and _slope(corners[-2], corners[-1], costs, accuracies) <= _slope(
            corners[-2], one, costs, accuracies
        ):
            corners.pop()
        corners.append(one)
    return corners


def _slope(low: int, high: int, costs: Sequence[float], accuracies: Sequence[float]) -> float:
    return (accuracies[high] - accuracies[low]) / (costs[high] - costs[low])
