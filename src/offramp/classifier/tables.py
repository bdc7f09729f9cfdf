"""What stages take on this machine, measured when a budget first needs it."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from offramp.measure.energy import EnergyTable, measure_joules, open_meter
from offramp.measure.latency_table import measure_latencies
from offramp.runtimes import Runtime
from offramp_runtime.budgeted import Regroup, always
from offramp_runtime.latency_table import LatencyTable
from offramp_runtime.stage_table import Setting

T = TypeVar("T")


class StageTables:
    """Latency and energy tables of one model, by setting and largest batch size."""

    def __init__(self) -> None:
        self._latencies: dict[tuple[Setting, int], LatencyTable] = {}
        self._joules: dict[tuple[Setting, int], EnergyTable] = {}

    @property
    def has_latencies(self) -> bool:
        """Whether any latency table has been measured."""
        return bool(self._latencies)

    def latencies(
        self, runtime: Runtime[Any], images: Callable[[int], Tensor], setting: Setting, batch: int
    ) -> LatencyTable:
        """Milliseconds for batches of up to ``batch`` images and somewhat more."""
        known = _reaching(self._latencies, setting, batch)
        if known is None:
            largest = _power(batch)
            known = self._latencies[setting, largest] = measure_latencies(runtime, images, setting, largest=largest)
        return known

    def joules(
        self, runtime: Runtime[Any], images: Callable[[int], Tensor], setting: Setting, batch: int, device: torch.device
    ) -> EnergyTable:
        """Joules for batches of up to ``batch`` images and somewhat more.

        Raises:
            BudgetError: they cannot be measured here.
            MissingExtraError: they are a GPU's and its bindings are not installed.
        """
        known = _reaching(self._joules, setting, batch)
        if known is None:
            largest = _power(batch)
            known = measure_joules(runtime, images, setting, open_meter(device), largest=largest)
            self._joules[setting, largest] = known
        return known

    def regroup(self, setting: Setting, batch: int) -> Regroup:
        """Regroup where it pays, if that has been measured, else always."""
        known = _reaching(self._latencies, setting, batch)
        return always if known is None else known.pays


def _reaching(tables: Mapping[tuple[Setting, int], T], setting: Setting, batch: int) -> T | None:
    """One measured in this setting for batches as large."""
    return next((table for (its, largest), table in tables.items() if its == setting and largest >= batch), None)


def _power(batch: int) -> int:
    """The next power of two, so that a few more images do not ask for another table."""
    return 1 << max(batch - 1, 0).bit_length()
