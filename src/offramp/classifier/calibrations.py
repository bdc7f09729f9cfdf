"""A classifier's calibrations, one per precision."""

from collections.abc import Callable

from offramp.decide.calibration import Calibration
from offramp.errors import ArtifactError, BudgetError
from offramp_runtime.precision import Precision


class Calibrations:
    """Those that belong to the model as it is.

    Args:
        identity: of the model at a precision.
    """

    def __init__(self, identity: Callable[[Precision], str]) -> None:
        self._identity = identity
        self._kept: dict[Precision, Calibration] = {}

    def get(self, precision: Precision) -> Calibration | None:
        """Of this precision, if there is one."""
        return self._kept.get(precision)

    def put(self, precision: Precision, calibration: Calibration | None) -> None:
        """Have this one, or none, from now on; whether it belongs to the model shows when it is needed."""
        if calibration is None:
            self._kept.pop(precision, None)
        else:
            self._kept[precision] = calibration

    def keep(self, precision: Precision, calibration: Calibration) -> None:
        """:meth:`put` of one that is checked at once.

        Raises:
            ArtifactError: it belongs to other weights, precision or preprocessing.
        """
        self._kept[precision] = self._checked(precision, calibration)

    def needed(self, precision: Precision) -> Calibration:
        """What a budget is solved from.

        Raises:
            BudgetError: there is none.
            ArtifactError: it belongs to other weights, precision or preprocessing.
        """
        calibration = self._kept.get(precision)
        if calibration is None:
            which, option = ("", "") if precision == "fp32" else (f" of {precision}", f" --precision {precision}")
            raise BudgetError(
                f"this model has no calibration{which} to solve a budget from; "
                f"make one with: offramp calibrate MODEL --data NAME{option}"
            )
        return self._checked(precision, calibration)

    def _checked(self, precision: Precision, calibration: Calibration) -> Calibration:
        identity = self._identity(precision)
        if calibration.identity != identity:
            raise ArtifactError(
                f"the calibration was made for {calibration.identity[:8]}, this model is {identity[:8]}; calibrate again"
            )
        return calibration
