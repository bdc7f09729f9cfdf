"""What was seen on the calibrate split: all that is needed to solve any budget."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp_runtime.budget import Flags, Pricing, Scores, exit_indices, priced, simulate, solve_thresholds
from offramp_runtime.costs import Costs
from offramp_runtime.plan import ExitPlan
from offramp_runtime.policies import Threshold


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores of held-out, un-augmented images, of which any budget is solved in milliseconds."""

    confidence: Scores
    """(K, N)."""
    correct: Flags
    """(K, N)."""
    source: str
    """Data set the images came from."""
    seed: int
    """That drew the hold-out."""
    indices: NDArray[np.int64]
    """Which training images they were, (N,)."""
    identity: str
    """Of the weights, precision, answer rule and preprocessing the scores belong to."""

    def solve(self, budget: float, costs: Costs | Pricing) -> ExitPlan:
        """Thresholds for a mean cost per image of ``budget``, in the unit of the costs; those may depend on who leaves.

        Raises:
            BudgetError: below the cost of exit 0.
        """
        thresholds = solve_thresholds(self.confidence, costs, budget)
        exits = exit_indices(self.confidence, thresholds)
        shares = np.bincount(exits, minlength=len(thresholds)) / len(exits)
        known = priced(costs, tuple(shares.tolist()))
        expected = simulate(self.confidence, self.correct, thresholds, known)
        return ExitPlan(Threshold(thresholds), budget, known, expected, self.identity)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file of it holds."""
        arrays = {"confidence": self.confidence, "correct": self.correct, "indices": self.indices}
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    def digest(self) -> str:
        """SHA-256 of the scores, so that a flipped bit is noticed."""
        return hashlib.sha256(b"".join(array.tobytes() for array in self.arrays().values())).hexdigest()
