import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import offramp
from offramp.measure.latency import StageTimes, settle, time_stages
from offramp.measure.machine import describe_machine, fingerprint
from offramp_runtime.machine import cpu_name, place_of
from tiny import Clock, Clockwork, make_net

IMAGES = torch.arange(4.0)
CPU = torch.device("cpu")


class Warming(Clockwork):
    """Each run takes a millisecond less per stage than the one before, down to ``ms``."""

    runs = 0

    def start(self, images: Tensor) -> Tensor:
        self.runs += 1
        return super().start(images)

    def step(self, k: int, state: Tensor) -> tuple[Tensor, Tensor]:
        self.clock.pass_ms(max(0, 4 - self.runs))
        return super().step(k, state)


def test_every_stage_is_timed_apart() -> None:
    runtime = Clockwork((2, 3, 5))
    times = time_stages(runtime, lambda: IMAGES, repeats=4, clock=runtime.clock)
    assert times.batch_size == 4
    assert [len(stage) for stage in times.ms] == [4, 4, 4]
    assert times.quantile(0.5) == pytest.approx((2, 3, 5))


def test_the_first_runs_are_not_counted() -> None:
    runtime = Warming((2, 2))
    times = time_stages(runtime, lambda: IMAGES, repeats=5, warmup=3, clock=runtime.clock)
    assert runtime.runs == 8
    assert times.quantile(1.0) == pytest.approx((2, 2))


def test_preparing_the_images_counts_to_the_first_stage() -> None:
    runtime = Clockwork((2, 3))

    def images() -> Tensor:
        runtime.clock.pass_ms(7)
        return IMAGES

    assert time_stages(runtime, images, clock=runtime.clock).quantile(0.5) == pytest.approx((9, 3))


def test_costs_are_the_median_milliseconds_per_image_up_to_each_exit() -> None:
    costs = StageTimes(4, ((4, 4, 100), (8, 8, 0), (2, 1, 2))).costs
    assert costs.at_exit == pytest.approx((1, 3, 3.5))
    assert (costs.unit, costs.kind) == ("ms", "cumulative")
    assert costs.note == "median of 3 runs at batch size 4"


def test_a_quantile_tells_what_a_stage_stays_below_so_often() -> None:
    times = StageTimes(1, (tuple(map(float, range(101))), (1.0,) * 101))
    assert times.quantile(0.95) == pytest.approx((95, 1))


def test_a_clock_too_coarse_to_see_a_stage_does_not_make_it_free() -> None:
    costs = time_stages(Clockwork((0, 0, 0)), lambda: IMAGES, clock=Clock()).costs
    assert 0 < costs.at_exit[0] < costs.at_exit[1] < costs.at_exit[2]


def test_a_real_network_can_be_timed_by_the_real_clock() -> None:
    times = time_stages(make_net(), lambda: torch.zeros(2, 1, 16, 16), repeats=2, warmup=0)
    assert times.batch_size == 2
    assert min(times.quantile(0)) > 0


def test_only_devices_that_run_ahead_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    settle(CPU)
    settle(torch.device("cuda"))
    assert waited == [torch.device("cuda")]


def test_a_machine_is_described_by_hardware_versions_and_commit() -> None:
    found = describe_machine(CPU)
    assert set(found) == {"device", "cores", "threads", "python", "torch", "offramp", "commit"}
    assert found["offramp"] == offramp.__version__
    assert found["threads"] == torch.get_num_threads()
    assert all(value or value == 0 for value in found.values())


def test_a_gpu_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"name of {device}")
    assert describe_machine(torch.device("cuda", 1))["device"] == "name of cuda:1"


@pytest.mark.parametrize("cpuinfo", [None, "vendor_id : somebody\n"], ids=["no such file", "no name in it"])
def test_a_cpu_without_a_name_is_called_by_its_architecture(
    cpuinfo: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        info.write_text(cpuinfo)
    monkeypatch.setattr("offramp_runtime.machine.Path", lambda path: info if path == "/proc/cpuinfo" else Path(path))
    monkeypatch.setattr("offramp.measure.machine.cpu_name", cpu_name.__wrapped__)  # the name is asked for once
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "risc")
    assert describe_machine(CPU)["device"] == "risc"


def test_measured_milliseconds_belong_to_a_cpus_features_too(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for features in (frozenset({"avx2"}), frozenset({"avx2", "avx512f"})):
        for module in ("offramp.measure.machine", "offramp_runtime.machine"):
            monkeypatch.setattr(f"{module}.cpu_features", lambda features=features: features)
        found |= {fingerprint(CPU), place_of("onnx", "fp32", 1)}
    assert len(found) == 4


def refused(*_: object, **__: object) -> None:
    raise subprocess.CalledProcessError(128, "git")


def absent(*_: object, **__: object) -> None:
    raise FileNotFoundError("git")


@pytest.mark.parametrize("git", [refused, absent])
def test_outside_a_checkout_the_commit_is_unknown(git: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", git)
    assert describe_machine(CPU)["commit"] == "unknown"
