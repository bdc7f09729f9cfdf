"""Thresholds for a budget, and what they lead to on stored scores.

Exits get shares of the samples proportional to r^k. Huang et al. (arXiv:1703.09844, eq. 2-3) write r = 1 - q < 1 and solve
for q; with r > 1 allowed every mean cost between that of the first and of the last exit can be met.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from offramp_runtime.costs import Costs
from offramp_runtime.errors import BudgetError

Scores = NDArray[np.float32]
"""Confidences, (K, N)."""
Flags = NDArray[np.bool_]
"""Whether the answer was right, (K, N)."""

Pricing: TypeAlias = Callable[[tuple[float, ...]], Costs]
"""Costs for the shares (K,) that leave at the exits, where they depend on them: batches that shrink cost more per image."""

_BISECTIONS = 24


@dataclass(frozen=True)
class Outcome:
    """What a set of thresholds does to a set of samples."""

    accuracy: float
    """Share answered rightly, 0 … 1."""
    mean_cost: float
    """Per sample, in the unit of the costs it was computed from."""
    shares: tuple[float, ...]
    """Share of samples that leave at each exit, (K,)."""


def exit_shares(log_r: float, num_exits: int) -> NDArray[np.float64]:
    """Shares proportional to r^k, (K,), summing to 1; the logarithm keeps extreme r from overflowing."""
    exponents = log_r * np.arange(num_exits)
    weights = np.exp(exponents - exponents.max())
    return np.asarray(weights / weights.sum(), np.float64)


def exit_indices(confidence: Scores, thresholds: tuple[float, ...]) -> NDArray[np.int64]:
    """The first exit whose confidence reaches its threshold, (N,); the last exit takes all that are left."""
    passed = confidence >= np.asarray(thresholds, np.float32)[:, None]
    passed[-1] = True
    return np.asarray(passed.argmax(0), np.int64)


def simulate(confidence: Scores, correct: Flags, thresholds: tuple[float, ...], costs: Costs) -> Outcome:
    """What ``thresholds`` do to stored scores (K, N)."""
    exits = exit_indices(confidence, thresholds)
    shares = np.bincount(exits, minlength=len(confidence)) / len(exits)
    right = correct[exits, np.arange(len(exits))].mean()
    return Outcome(float(right), float(shares @ np.asarray(costs.at_exit)), tuple(shares.tolist()))


def priced(costs: Costs | Pricing, shares: tuple[float, ...]) -> Costs:
    """The costs when these shares (K,) leave at the exits."""
    return costs if isinstance(costs, Costs) else costs(shares)


def solve_thresholds(confidence: Scores, costs: Costs | Pricing, budget: float) -> tuple[float, ...]:
    """Per-exit thresholds whose mean cost on the given samples is at most ``budget``, as near to it as shares r^k allow.

    Each threshold lies midway between two neighbouring confidences, so that a last-bit difference between batch sizes
    cannot flip an exit; ``inf`` lets nobody leave, ``-inf`` everybody. The bisection over r is ours.

    Args:
        confidence: (K, N) scores of held-out samples, larger is surer.
        costs: cumulative cost at each exit, or how it follows from who leaves.
        budget: mean cost per sample, in the unit of the costs.

    Raises:
        BudgetError: ``budget`` is below what it costs when all leave at exit 0.
    """
    num_exits = len(confidence)
    cheapest = priced(costs, (1.0,) + (0.0,) * (num_exits - 1))
    if budget < cheapest.at_exit[0]:
        raise BudgetError(
            f"budget {cheapest.format(budget)} is below exit 0, the cheapest ({cheapest.format(cheapest.at_exit[0])}); "
            "raise the budget or train a smaller first stage"
        )
    if num_exits == 1 or budget >= priced(costs, (0.0,) * (num_exits - 1) + (1.0,)).at_exit[-1]:
        return (np.inf,) * (num_exits - 1) + (-np.inf,)
    doubt = -confidence
    ranks = np.argsort(doubt, axis=1, kind="stable")
    best = (-np.inf,) * num_exits
    # Beyond these bounds every share but the largest is below one sample.
    high = np.log(confidence.shape[1]) + 1
    low = -high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        thresholds, counts = _leave_in_shares(doubt, ranks, exit_shares(middle, num_exits))
        at_exit = np.asarray(priced(costs, tuple((counts / confidence.shape[1]).tolist())).at_exit)
        if counts @ at_exit <= budget * confidence.shape[1]:
            best, low = thresholds, middle
        else:
            high = middle
    return best


def _leave_in_shares(
    doubt: Scores, ranks: NDArray[np.intp], shares: NDArray[np.float64]
) -> tuple[tuple[float, ...], NDArray[np.int64]]:
    """Thresholds (K,) that let about ``shares`` leave, and how many really do, (K,); ``doubt`` is minus the confidence."""
    num_exits, count = doubt.shape
    alive = np.ones(count, bool)
    thresholds, counts = [], np.zeros(num_exits, np.int64)
    for k in range(num_exits - 1):
        order = ranks[k][alive[ranks[k]]]
        threshold, leavers = _threshold(doubt[k, order], int(count * shares[k]))
        alive[order[:leavers]] = False
        thresholds.append(threshold)
        counts[k] = leavers
    counts[-1] = count - counts.sum()
    return (*thresholds, -np.inf), counts


def _threshold(doubt: Scores, wanted: int) -> tuple[float, int]:
    """Confidence that lets the ``wanted`` surest of ``doubt`` (ascending) leave, ties included, and how many they are."""
    if wanted == 0:
        return np.inf, 0
    if wanted >= len(doubt):
        return -np.inf, len(doubt)
    last = doubt[wanted - 1]
    leavers = int(np.searchsorted(doubt, last, side="right"))
    if leavers == len(doubt):
        return -np.inf, leavers
    middle = (last + doubt[leavers]) / np.float32(2)
    return -float(middle if middle < doubt[leavers] else last), leavers
