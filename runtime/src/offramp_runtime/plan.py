"""A policy solved for one promise, with its evidence."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offramp_runtime.budget import Outcome
from offramp_runtime.costs import UNITS, Costs
from offramp_runtime.errors import ArtifactError, ConfigError
from offramp_runtime.files import read_json, write_json
from offramp_runtime.policies import Threshold

FORMAT, VERSION = "offramp-plan", 1


@dataclass(frozen=True)
class ExitPlan:
    """Thresholds for a budget, and what they are expected to cost and score."""

    policy: Threshold
    budget: float
    """Mean per image, in the unit of ``costs``."""
    costs: Costs
    expected: Outcome
    """On the calibrate split."""
    identity: str
    """Of the weights, precision, answer rule and preprocessing it was solved for."""
    machine: str | None = None
    """Fingerprint of the machine whose milliseconds the costs are; None for MACs, which are the same everywhere."""

    def save(self, path: Path) -> None:
        """Write as JSON; infinite thresholds, which JSON lacks, are written as text."""
        write_json(
            path,
            {
                "format": FORMAT,
                "version": VERSION,
                "identity": self.identity,
                "machine": self.machine,
                "budget": self.budget,
                "unit": self.costs.unit,
                "costs": list(self.costs.at_exit),
                "thresholds": [t if np.isfinite(t) else str(t) for t in self.policy.thresholds],
                "expected": {
                    "accuracy": self.expected.accuracy,
                    "mean_cost": self.expected.mean_cost,
                    "shares": list(self.expected.shares),
                },
            },
        )

    @classmethod
    def load(cls, path: Path) -> "ExitPlan":
        """What :meth:`save` wrote.

        Raises:
            ArtifactError: missing, damaged, not a plan, or from a newer release.
        """
        stored: dict[str, Any] = read_json(path, FORMAT, VERSION)
        try:
            if stored["unit"] not in {unit for unit, _ in UNITS.values()}:
                raise ValueError(f"unit {stored['unit']!r}")
            costs = Costs(tuple(map(float, stored["costs"])), stored["unit"])
            thresholds = tuple(map(float, stored["thresholds"]))
            expected = stored["expected"]
            outcome = Outcome(float(expected["accuracy"]), float(expected["mean_cost"]), tuple(expected["shares"]))
            whose = str(stored["identity"]), stored["machine"]
            plan = cls(Threshold(thresholds), float(stored["budget"]), costs, outcome, *whose)
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise ArtifactError(f"{path}: the plan is incomplete or damaged ({error!r}); solve it anew") from None
        if len(thresholds) != len(costs.at_exit) or any(np.isnan(thresholds)):
            raise ArtifactError(f"{path}: {len(thresholds)} thresholds for {len(costs.at_exit)} exits; solve it anew")
        return plan
