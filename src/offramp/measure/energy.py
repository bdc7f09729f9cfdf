"""Joules: counters of the hardware, where they can be read, and what every stage takes of them.

A counter covers all that runs on the processor package or GPU meanwhile, and what these draw when idle.
"""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from offramp.errors import BudgetError, MissingExtraError
from offramp.measure.latency_table import all_rows, settled
from offramp.runtimes import Runtime
from offramp_runtime.latency_table import Sweep
from offramp_runtime.stage_table import Setting, StageTable

S = TypeVar("S")
POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows RAPL's counters; AMD's processors stand there under Intel's name too."""
SIZES = (1, 8, 64, 256)
_RUN_S = 0.2
"""Of each run: the counters move about a thousand times a second."""
_RUNS = 3


class EnergyMeter(Protocol):
    """A counter."""

    def joules(self) -> float:
        """Since some fixed instant."""
        ...


@dataclass(frozen=True)
class EnergyTable(StageTable):
    """Joules of every stage, and of regrouping at every border, by batch size."""

    unit: ClassVar[Literal["ms", "J"]] = "J"
    kind: ClassVar[str] = "offramp-energy-table"


class Rapl:
    """All processor packages and their memory. To be read at least once per wrap of a counter, which takes minutes.

    Args:
        root: for tests.

    Raises:
        BudgetError: no counter, or none this process may read.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        packages = [zone for zone in root.glob("intel-rapl:*") if _name(zone).startswith("package")]
        memory = [zone for package in packages for zone in package.glob("intel-rapl:*") if _name(zone) == "dram"]
        if not packages:
            raise BudgetError(
                f"joules cannot be measured here: {root} shows no processor package; give the budget in MMAC or ms"
            )
        self._zones = [(zone, int((zone / "max_energy_range_uj").read_text())) for zone in [*packages, *memory]]
        self._last = [_read_uj(zone) for zone, _ in self._zones]
        self._total_uj = 0

    def joules(self) -> float:
        """Since this object was made."""
        for place, (zone, range_uj) in enumerate(self._zones):
            now = _read_uj(zone)
            self._total_uj += (now - self._last[place]) % (range_uj + 1)  # it begins anew at zero
            self._last[place] = now
        return self._total_uj * 1e-6


class Nvml:
    """One NVIDIA GPU, of Volta or newer.

    Raises:
        MissingExtraError: NVIDIA's Python bindings are not installed.
        BudgetError: the GPU does not count its energy.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            library: Any = importlib.import_module("pynvml")
        except ImportError:
            raise MissingExtraError(
                "joules of a GPU are read with NVIDIA's bindings, which are not installed; pip install nvidia-ml-py"
            ) from None
        self._library = library
        try:
            library.nvmlInit()
            # By UUID, since CUDA and NVML count devices differently.
            uuid = torch.cuda.get_device_properties(device).uuid
            self._handle = library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            self.joules()
        except library.NVMLError as error:
            raise BudgetError(
                f"joules of this GPU cannot be measured ({error}); give the budget in MMAC or ms"
            ) from None

    def joules(self) -> float:
        """Since the driver was loaded."""
        return float(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle)) * 1e-3


def open_meter(device: torch.device) -> EnergyMeter:
    """The counter of what computes on ``device``.

    Raises:
        BudgetError: there is none, or it may not be read.
        MissingExtraError: it is a GPU's and the bindings are not installed.
    """
    return Nvml(device) if device.type == "cuda" else Rapl()


@torch.inference_mode()
def measure_joules(
    runtime: Runtime[S],
    images: Callable[[int], Tensor],
    setting: Setting,
    meter: EnergyMeter,
    *,
    largest: int = SIZES[-1],
    seconds: float = 15.0,
    clock: Callable[[], float] = time.perf_counter,
) -> EnergyTable:
    """Measure a table; sizes that no longer fit into the time are left out, and its note says so.

    Args:
        runtime: what to measure.
        images: gives that many normalised images (N, C, H, W).
        setting: what the figures will belong to.
        meter: of what computes.
        largest: batch size to measure up to.
        seconds: to spend at most, but for one pass over a single image.
        clock: seconds, for tests.
    """
    sweep = Sweep(runtime, images, meter.joules, seconds, clock, all_rows, settled)
    sweep.over(SIZES, largest, _RUNS, _RUN_S)
    return EnergyTable(setting, *sweep.columns(), note=sweep.note)


def _name(zone: Path) -> str:
    name = zone / "name"
    return name.read_text().strip() if name.is_file() else ""


def _read_uj(zone: Path) -> int:
    counter = zone / "energy_uj"
    try:
        return int(counter.read_text())
    except PermissionError:
        raise BudgetError(
            f"joules cannot be measured: {counter} may be read by root only; run as root, allow it with "
            f"'sudo chmod a+r {counter}', or give the budget in MMAC or ms"
        ) from None
    except (OSError, ValueError) as error:
        raise BudgetError(f"joules cannot be measured: {counter} ({error}); give the budget in MMAC or ms") from None
