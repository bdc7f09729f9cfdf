import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from offramp.errors import BudgetError, MissingExtraError
from offramp.measure.energy import EnergyTable, Nvml, Rapl, measure_joules, open_meter
from offramp_runtime.stage_table import Setting
from tiny import Clockwork

SETTING = Setting("machine", "clockwork", "fp32", "model")
RANGE_UJ = 1_000_000


def zone(place: Path, name: str, microjoules: int) -> Path:
    """A folder as Linux shows one."""
    place.mkdir(parents=True)
    (place / "name").write_text(f"{name}\n")
    (place / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    return set_counter(place, microjoules)


def set_counter(place: Path, microjoules: int) -> Path:
    (place / "energy_uj").write_text(f"{microjoules}\n")
    return place


def test_the_joules_of_a_package_are_counted_from_when_the_meter_was_made(tmp_path: Path) -> None:
    package = zone(tmp_path / "intel-rapl:0", "package-0", 700)
    meter = Rapl(tmp_path)
    assert meter.joules() == 0
    set_counter(package, 5_700)
    assert meter.joules() == pytest.approx(0.005)


def test_a_counter_that_began_anew_at_zero_goes_on(tmp_path: Path) -> None:
    package = zone(tmp_path / "intel-rapl:0", "package-0", RANGE_UJ - 99)
    meter = Rapl(tmp_path)
    for microjoules in (100, RANGE_UJ, 50):
        set_counter(package, microjoules)
        last = meter.joules()
    # 99 to the top and one to zero, then 100; up to the top; over it again.
    assert last == pytest.approx((200 + RANGE_UJ - 100 + 51) * 1e-6)


def test_all_packages_and_their_memory_count_and_nothing_counts_twice(tmp_path: Path) -> None:
    counted = [
        zone(tmp_path / "intel-rapl:0", "package-0", 0),
        zone(tmp_path / "intel-rapl:0" / "intel-rapl:0:1", "dram", 0),
        zone(tmp_path / "intel-rapl:1", "package-1", 0),
    ]
    parts_and_wholes = [
        zone(tmp_path / "intel-rapl:0" / "intel-rapl:0:0", "core", 0),
        zone(tmp_path / "intel-rapl:2", "psys", 0),
        zone(tmp_path / "intel-rapl-mmio:0", "package-0", 0),
    ]
    (tmp_path / "intel-rapl").mkdir()
    meter = Rapl(tmp_path)
    for place in counted:
        set_counter(place, 1000)
    for place in parts_and_wholes:
        set_counter(place, 7)
    assert meter.joules() == pytest.approx(0.003)


def test_a_machine_without_counters_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="shows no processor package; give the budget in MMAC or ms"):
        Rapl(tmp_path / "nowhere")


def test_counters_only_root_may_read_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path / "intel-rapl:0", "package-0", 0)
    read = Path.read_text

    def guarded(path: Path) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_text", guarded)
    with pytest.raises(
        BudgetError, match=r"energy_uj may be read by root only; .*chmod a\+r .*or give the budget in MMAC"
    ):
        Rapl(tmp_path)


def test_a_counter_that_shows_no_number_is_told_of(tmp_path: Path) -> None:
    package = zone(tmp_path / "intel-rapl:0", "package-0", 0)
    meter = Rapl(tmp_path)
    (package / "energy_uj").write_text("none\n")
    with pytest.raises(BudgetError, match=r"energy_uj .*'none"):
        meter.joules()


def test_a_processor_is_metered_by_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path / "intel-rapl:0", "package-0", 0)
    monkeypatch.setattr(Rapl.__init__, "__defaults__", (tmp_path,))
    assert open_meter(torch.device("cpu")).joules() == 0


# ---- GPUs, by bindings that only look like NVIDIA's


class FakeNvml(ModuleType):
    class NVMLError(Exception):
        pass

    def __init__(self, millijoules: int | None) -> None:
        super().__init__("pynvml")
        self.millijoules = millijoules

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        assert handle == "GPU-12ab"
        if self.millijoules is None:
            raise self.NVMLError("Not Supported")
        return self.millijoules


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], FakeNvml]:
    def install(millijoules: int | None) -> FakeNvml:
        fake = FakeNvml(millijoules)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="12ab"))
        return fake

    return install


def test_a_gpu_is_metered_by_its_own_counter(gpu: Callable[[int | None], FakeNvml]) -> None:
    fake = gpu(2500)
    meter = open_meter(torch.device("cuda", 1))
    assert meter.joules() == pytest.approx(2.5)
    fake.millijoules = 3500
    assert meter.joules() == pytest.approx(3.5)


def test_a_gpu_that_does_not_count_is_told_of(gpu: Callable[[int | None], FakeNvml]) -> None:
    gpu(None)
    with pytest.raises(BudgetError, match=r"joules of this GPU cannot be measured \(Not Supported\)"):
        Nvml(torch.device("cuda"))


def test_without_the_bindings_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingExtraError, match="pip install nvidia-ml-py"):
        Nvml(torch.device("cuda"))


# ---- tables


class Watts(Clockwork):
    """Stage k draws ``watts[k]`` while it runs, per image as long as ``ms`` says; the counter moves once a millisecond."""

    def __init__(self, ms: tuple[float, ...], watts: tuple[float, ...]) -> None:
        super().__init__(ms)
        self.watts, self.drawn = watts, 0.0

    def step(self, k: int, state: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(len(state) - 1):
            self.clock.pass_ms(self.ms[k])
        self.drawn += self.watts[k] * self.ms[k] * 1e-3 * len(state)
        return super().step(k, state)

    def joules(self) -> float:
        return int(self.drawn * 1e3) * 1e-3


def measured(runtime: Watts, seconds: float = 100.0) -> EnergyTable:
    return measure_joules(
        runtime, lambda n: torch.arange(float(n)), SETTING, runtime, largest=64, seconds=seconds, clock=runtime.clock
    )


def test_joules_of_each_stage_are_means_over_many_runs_of_a_coarse_counter() -> None:
    table = measured(Watts((0.31, 0.77), (2.0, 5.0)))
    assert (table.unit, table.sizes) == ("J", (1, 8, 64))
    for count in (1, 8, 64):
        assert table.stage(0, count) == pytest.approx(2.0 * 0.31e-3 * count, rel=0.05)
        assert table.stage(1, count) == pytest.approx(5.0 * 0.77e-3 * count, rel=0.05)


def test_joules_become_costs_a_budget_is_solved_with() -> None:
    costs = measured(Watts((1.0, 1.0), (1.0, 3.0))).costs((0.5, 0.5), images=64, batch=64)
    assert costs.unit == "J"
    assert costs.at_exit == pytest.approx((0.001, 0.004), rel=0.05)


def test_a_slow_network_is_not_measured_longer_than_told() -> None:
    runtime = Watts((100.0,), (1.0,))
    began = runtime.clock()
    table = measured(runtime, seconds=5.0)
    assert runtime.clock() - began < 5.0 + 0.2
    assert table.sizes == (1, 8)
    assert table.note == "batches of 64 and more would not fit into 5 s; in proportion to 8"
