"""The published evaluation of budgeted batches, reproduced on stored arrays, quirks included.

kalviny/MSDNet-PyTorch never takes a budget: it sweeps r = p/20, p = 1 … 39, fits thresholds to the shares r^k on one set and
applies them to another. Its arithmetic is float32, and where fewer samples are left than a share asks for, or the share
rounds to none, nobody leaves. :func:`offramp_runtime.budget.solve_thresholds` is what the package itself uses.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp_runtime.budget import Flags, Outcome, Scores, simulate
from offramp_runtime.costs import Costs


@dataclass(frozen=True)
class SweepPoint:
    """One of the 39 points."""

    p: int
    thresholds: tuple[float, ...]
    """(K,)."""
    fitted: Outcome
    """On the samples the thresholds were fitted on."""
    applied: Outcome
    """On the others."""


def paper_shares(p: int, num_exits: int) -> NDArray[np.float32]:
    """Shares proportional to (p/20)^k, k = 1 … K, in float32, (K,)."""
    log_r = np.log(np.float32(p / 20))
    weights = np.exp(log_r * np.arange(1, num_exits + 1, dtype=np.float32))
    return np.asarray(weights / weights.sum(dtype=np.float32), np.float32)


def paper_thresholds(confidence: Scores, shares: NDArray[np.float32]) -> tuple[float, ...]:
    """Thresholds (K,) fitted to confidences (K, N): each is the confidence of the last sample of its share.

    Samples as sure as that one leave too. ``inf`` where nobody leaves, ``-inf`` at the last exit.
    """
    num_exits, count = confidence.shape
    alive = np.ones(count, bool)
    thresholds = [np.inf] * (num_exits - 1) + [-np.inf]
    for k in range(num_exits - 1):
        wanted = int(np.floor(np.float32(count) * shares[k]))
        left = np.sort(confidence[k, alive])[::-1]
        if 0 < wanted <= len(left):
            thresholds[k] = float(left[wanted - 1])
            alive &= confidence[k] < left[wanted - 1]
    return tuple(thresholds)


def paper_sweep(fit: tuple[Scores, Flags], apply: tuple[Scores, Flags], costs: Costs) -> list[SweepPoint]:
    """The 39 points for confidences and correctness (K, N) of two sets."""
    points = []
    for p in range(1, 40):
        thresholds = paper_thresholds(fit[0], paper_shares(p, len(fit[0])))
        points.append(SweepPoint(p, thresholds, simulate(*fit, thresholds, costs), simulate(*apply, thresholds, costs)))
    return points
