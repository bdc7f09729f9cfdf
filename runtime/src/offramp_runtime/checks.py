"""What is asked for must be possible, and plans must belong to the model."""

import os
from collections.abc import Mapping
from numbers import Integral, Real
from operator import index
from typing import SupportsIndex

import numpy as np

from offramp_runtime.errors import ArtifactError, BudgetError, ConfigError
from offramp_runtime.plan import ExitPlan
from offramp_runtime.stages import check_exit


def check_plan(plan: ExitPlan, identity: str, machine: str) -> None:
    """Refuse a plan of another model, or with milliseconds of another machine.

    Raises:
        ArtifactError: either of the two.
    """
    if plan.identity != identity:
        raise ArtifactError(f"the plan was made for {plan.identity[:8]}, this model is {identity[:8]}; solve it again")
    if plan.machine is not None and plan.machine != machine:
        raise ArtifactError(
            f"the plan's milliseconds were measured on machine {plan.machine[:8]}, this is "
            f"{machine[:8]} (hardware, threads, runtime and its version count); solve it again here"
        )


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that no call can have; more than cores would only wait for each other.

    Raises:
        ConfigError: fewer than one, or more than the machine has cores.
    """
    # Not the cores this thread may use, which some settings narrow to one once threads are bound to cores.
    cores = os.cpu_count() or 1
    if threads is None:
        return
    if not isinstance(threads, Integral) or isinstance(threads, bool) or not 1 <= threads <= cores:
        raise ConfigError(
            f"threads={threads!r}: a call is computed by at least 1 and at most {cores}, the cores here; "
            "give such a number, or none for the usual"
        )


def check_ways(ways: Mapping[str, object], num_exits: int) -> None:
    """Refuse more than one way to spend, or an exit that is not there.

    Raises:
        ConfigError: either of the two.
    """
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} together: give one of {', '.join(ways)}")
    exit_index = ways["exit"]
    if exit_index is None:
        return
    if not isinstance(exit_index, SupportsIndex) or isinstance(exit_index, bool | np.bool_):
        raise ConfigError(f"exit={exit_index!r}: this network has exits 0 … {num_exits - 1}; give one of these numbers")
    check_exit(index(exit_index), num_exits)


def check_deadline(deadline_ms: float) -> None:
    """Refuse what no clock can keep.

    Raises:
        BudgetError: not a positive number.
    """
    number = isinstance(deadline_ms, Real) and not isinstance(deadline_ms, bool)
    if not number or not deadline_ms > 0:
        raise BudgetError(
            f"deadline_ms={deadline_ms!r}: must be a positive number of milliseconds; give one such as 10.0"
        )
