"""What a classifier's stages take on this machine, and the plans that follow."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from offramp.classifier.running import Running
from offramp.classifier.tables import StageTables
from offramp.decide.calibration import Calibration
from offramp.measure.energy import EnergyTable
from offramp.measure.latency import StageTimes, time_stages
from offramp.measure.machine import fingerprint
from offramp_runtime.budgeted import Regroup, always
from offramp_runtime.costs import Costs, parse_budget
from offramp_runtime.latency_table import LatencyTable
from offramp_runtime.plan import ExitPlan
from offramp_runtime.stage_table import Setting, StageTable


class Measuring:
    """Measures when first asked, once for each setting.

    Args:
        running: what computes.
        identity: of the model at the precision in use.
        images: gives that many normalised images.
    """

    def __init__(self, running: Running, identity: Callable[[], str], images: Callable[[int], Tensor]) -> None:
        self._running = running
        self._identity = identity
        self._images = images
        self._times: dict[tuple[int, str], StageTimes] = {}
        self._tables = StageTables()

    @property
    def setting(self) -> Setting:
        """What measured figures belong to."""
        running = self._running
        machine = fingerprint(running.device, f"{running.threads} threads")
        return Setting(machine, running.name or "net", running.precision, self._identity())

    def times(self, batch: int) -> StageTimes:
        """Of the stages for ``batch`` images."""
        place = batch, self._running.machine
        if place not in self._times:
            repeats = 20 if batch <= 8 else 5
            self._times[place] = time_stages(self._running.runtime, lambda: self._images(batch), repeats)
        return self._times[place]

    def latencies(self, batch: int) -> LatencyTable:
        """Milliseconds for batches of up to ``batch`` images."""
        return self._tables.latencies(self._running.runtime, self._images, self.setting, batch)

    def joules(self, batch: int) -> EnergyTable:
        """Joules for batches of up to ``batch`` images.

        Raises:
            BudgetError: they cannot be measured here.
            MissingExtraError: they are a GPU's and its bindings are not installed.
        """
        running = self._running
        return self._tables.joules(running.runtime, self._images, self.setting, batch, running.device)

    def regroup(self, batch: int) -> Regroup:
        """Whether it pays, where that is known."""
        # Identifying the model takes milliseconds, which those who never asked for a table need not pay.
        return self._tables.regroup(self.setting, batch) if self._tables.has_latencies else always

    def plan(
        self,
        budget: float | str,
        calibration: Calibration,
        macs: Callable[[], Costs],
        images: int,
        batch_size: int,
        queued: bool = False,
    ) -> ExitPlan:
        """The plan for a mean cost per image, of ``images`` given at once in batches that shrink or through queues."""
        value, unit = parse_budget(budget)
        if unit not in ("ms", "J"):
            return calibration.solve(value, macs())
        largest = min(images, batch_size)
        table: StageTable = self.latencies(largest) if unit == "ms" else self.joules(largest)
        return replace(
            calibration.solve(value, table.pricing(images, batch_size, queued)), machine=self._running.machine
        )
