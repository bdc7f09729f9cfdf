"""What was seen on the calibrate split: all that is needed to solve any budget."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from offramp.costs import Costs
from offramp.decide.budget import Flags, Scores, simulate, solve_thresholds
from offramp.decide.plan import ExitPlan
from offramp.decide.policies import Threshold
from offramp.errors import ArtifactError
from offramp.files import check_format, write_atomic

FORMAT, VERSION = "offramp-calibration", 1


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

    def solve(self, budget: float, costs: Costs) -> ExitPlan:
        """Thresholds for a mean cost per image of ``budget``, in ``costs.unit``.

        Raises:
            BudgetError: below the cost of exit 0.
        """
        thresholds = solve_thresholds(self.confidence, costs, budget)
        expected = simulate(self.confidence, self.correct, thresholds, costs)
        return ExitPlan(Threshold(thresholds), budget, costs, expected, self.identity)

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        about = {
            "format": FORMAT,
            "version": VERSION,
            "source": self.source,
            "seed": self.seed,
            "identity": self.identity,
            "sha256": self._digest(),
        }
        data = save(self._arrays(), {"about": json.dumps(about)})
        write_atomic(path, lambda file: file.write(data))

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """What :meth:`save` wrote.

        Raises:
            ArtifactError: damaged, not a calibration, or from a newer release.
        """
        try:
            with safe_open(path, "numpy") as file:
                about = json.loads((file.metadata() or {}).get("about", "{}"))
                check_format(path, about.get("format"), about.get("version"), FORMAT, VERSION)
                arrays = {name: file.get_tensor(name) for name in ("confidence", "correct", "indices")}
            loaded = cls(**arrays, source=about["source"], seed=about["seed"], identity=about["identity"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"{path}: the calibration is damaged ({error}); calibrate again") from None
        shape = loaded.confidence.shape
        if len(shape) != 2 or loaded.correct.shape != shape or len(loaded.indices) != shape[1] or shape[1] == 0:
            raise ArtifactError(f"{path}: the calibration's arrays do not fit together; calibrate again")
        if about.get("sha256") != loaded._digest():
            raise ArtifactError(f"{path}: the calibration's scores are not those that were written; calibrate again")
        return loaded

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays = {"confidence": self.confidence, "correct": self.correct, "indices": self.indices}
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    def _digest(self) -> str:
        """SHA-256 of the scores, so that a flipped bit is noticed."""
        return hashlib.sha256(b"".join(array.tobytes() for array in self._arrays().values())).hexdigest()
