"""What stages take on this machine, measured when a budget first needs it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from offramp.measure.energy import EnergyTable, measure_joules, open_meter
from offramp.measure.latency_table import measure_latencies
from offramp.runtimes import Runtime
from offramp_runtime.budgeted import Regroup, always
from offramp_runtime.latency_table import LatencyTable
from offramp_runtime.stage_table import Setting


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
        place = setting, _power(batch)
        if place not in self._latencies:
            self._latencies[place] = measure_latencies(runtime, images, setting, largest=place[1])
        return self._latencies[place]

    def joules(
        self, runtime: Runtime[Any], images: Callable[[int], Tensor], setting: Setting, batch: int, device: torch.device
    ) -> EnergyTable:
        """Joules for batches of up to ``batch`` images and somewhat more.

        Raises:
            BudgetError: they cannot be measured here.
            MissingExtraError: they are a GPU's and its bindings are not installed.
        """
        place = setting, _power(batch)
        if place not in self._joules:
            meter = open_meter(device)
            self._joules[place] = measure_joules(runtime, images, setting, meter, largest=place[1])
        return self._joules[place]

    def regroup(self, setting: Setting, batch: int) -> Regroup:
        """Regroup where it pays, if that has been measured, else always."""
        known = self._latencies.get((setting, _power(batch)))
        return always if known is None else known.pays


def _power(batch: int) -> int:
    """The next power of two, so that a few more images do not ask for another table."""
    return 1 << max(batch - 1, 0).bit_length()
