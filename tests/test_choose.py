import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from offramp.engine import choose as choosing
from offramp.engine.choose import choose, time_one
from offramp.engine.opening import RuntimeSpec, Subject
from offramp.errors import ArtifactError, ConfigError, MissingExtraError, OfframpWarning
from offramp_runtime.cache import cache_folder
from offramp_runtime.precision import Precision
from tiny import Clock, Clockwork, make_net

NET = make_net()


class World:
    """Runtimes that take just so long, and what was opened of them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.opened: list[str] = []
        self.specs: dict[str, RuntimeSpec] = {}

    def add(
        self,
        name: str,
        *ms: float,
        precisions: tuple[Precision, ...] = ("fp32",),
        able: bool = True,
        tried: bool = True,
    ) -> None:
        def opens(_subject: Subject) -> Clockwork:
            self.opened.append(name)
            return Flat(ms, self.clock)

        reason = None if able else MissingExtraError(f"{name} is not installed")
        self.specs[name] = RuntimeSpec(precisions, opens, lambda _subject: reason, tried)  # type: ignore[arg-type]

    def choose(self, **changes: object) -> str:
        return choose(subject(**changes), self.clock)[0]  # type: ignore[arg-type]


class Flat(Clockwork):
    """A clockwork that takes real images."""

    def start(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, 0]


def subject(precision: Precision = "fp32", threads: int = 1, digest: str = "cafe", int8: bool = False) -> Subject:
    return Subject(NET, digest, precision, threads, torch.device("cpu"), Path("int8.onnx") if int8 else None)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[World]:
    """Three runtimes, one of them the fastest, and a machine that remembers nothing."""
    world = World()
    world.add("eager", 5, 5, 5, precisions=("fp32", "bf16"))
    world.add("onnx", 1, 2, 1, precisions=("fp32", "int8"))
    world.add("openvino", 3, 3, 3, precisions=("fp32", "bf16", "int8"))
    monkeypatch.delenv("OFFRAMP_RUNTIME", raising=False)
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("offramp.engine.opening.entries", lambda *_: world.specs)
    monkeypatch.setattr("offramp.engine.opening.lookup", lambda kind, name, *_: world.specs[name])
    return world  # type: ignore[return-value]


def test_the_fastest_to_the_last_exit_is_chosen(world: World) -> None:
    assert world.choose() == "onnx"
    assert sorted(world.opened) == ["eager", "onnx", "openvino"]


def test_one_that_cannot_run_this_network_after_all_is_left_out(world: World) -> None:
    def refuses(_subject: Subject) -> Clockwork:
        raise ConfigError("something unknown in this network")

    world.specs["native"] = RuntimeSpec(("fp32",), refuses, lambda _subject: None)  # type: ignore[arg-type]
    assert world.choose() == "onnx"
    world.specs["onnx"] = world.specs["native"]  # what was remembered no longer opens
    assert world.choose() == "openvino"
    world.specs["eager"] = world.specs["openvino"] = world.specs["native"]
    with pytest.raises(ConfigError, match="something unknown in this network"):
        world.choose()


def test_one_that_does_not_open_today_is_tried_again_at_the_next_start(world: World) -> None:
    whole = world.specs["onnx"]

    def refuses(_subject: Subject) -> Clockwork:
        raise ArtifactError("the cache is full")

    world.specs["onnx"] = RuntimeSpec(("fp32",), refuses, lambda _subject: None)  # type: ignore[arg-type]
    with pytest.warns(OfframpWarning, match="takes 'openvino', since others do not open now: the cache is full"):
        assert world.choose() == "openvino"
    world.specs["onnx"] = whole
    assert world.choose() == "onnx"


def test_it_is_measured_once_and_remembered(world: World) -> None:
    world.choose()
    world.opened.clear()
    before = world.clock.now
    assert world.choose() == "onnx"
    assert world.opened == ["onnx"]
    assert world.clock.now == before


def test_what_was_measured_is_kept_where_it_can_be_read(world: World) -> None:
    world.choose()
    (path,) = (cache_folder() / "choices").iterdir()
    stored = json.loads(path.read_text())
    assert stored["runtime"] == "onnx"
    assert stored["ms"] == pytest.approx({"eager": 15, "onnx": 4, "openvino": 9})


@pytest.mark.parametrize("change", [{"threads": 2}, {"digest": "dead"}, {"precision": "bf16"}], ids=str)
def test_another_model_precision_or_number_of_threads_is_measured_anew(world: World, change: dict[str, object]) -> None:
    world.choose()
    world.opened.clear()
    world.choose(**change)
    assert len(world.opened) > 1


def test_another_machine_or_release_is_measured_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fingerprint", "version_of"):
        world.choose()
        world.opened.clear()
        monkeypatch.setattr(choosing, name, lambda *_: "another")
        world.choose()
        assert len(world.opened) == 3


def test_a_runtime_that_came_since_is_measured_too(world: World) -> None:
    world.choose()
    world.add("newest", 1, 1, 1)
    assert world.choose() == "newest"


def test_what_is_remembered_but_gone_is_not_chosen(world: World) -> None:
    world.choose()
    world.add("onnx", able=False)
    assert world.choose() == "openvino"


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "offramp-choice", "version": 99}', '{"format": "other"}'])
def test_a_damaged_memory_is_measured_anew(world: World, content: str) -> None:
    world.choose()
    (path,) = (cache_folder() / "choices").iterdir()
    path.write_text(content)
    world.opened.clear()
    assert world.choose() == "onnx"
    assert len(world.opened) == 3


def test_only_what_has_the_precision_is_tried(world: World) -> None:
    assert world.choose(precision="bf16") == "openvino"
    assert sorted(world.opened) == ["eager", "openvino"]


def test_what_takes_minutes_to_prepare_is_not_tried(world: World) -> None:
    world.add("compiled", 0.1, 0.1, 0.1, tried=False)
    assert world.choose() == "onnx"
    assert "compiled" not in world.opened


def test_a_single_one_is_taken_without_measuring(world: World) -> None:
    for name in ("onnx", "openvino"):
        world.add(name, able=False)
    before = world.clock.now
    assert world.choose() == "eager"
    assert world.clock.now == before
    assert not (cache_folder() / "choices").exists()


def test_the_environment_settles_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFRAMP_RUNTIME", "eager")
    assert world.choose() == "eager"
    assert world.opened == ["eager"]


def test_what_the_environment_names_never_falls_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add("onnx", able=False)
    monkeypatch.setenv("OFFRAMP_RUNTIME", "onnx")
    with pytest.raises(MissingExtraError, match="onnx is not installed"):
        world.choose()
    monkeypatch.setenv("OFFRAMP_RUNTIME", "eager")
    with pytest.raises(ConfigError, match="runtime 'eager' has no int8"):
        world.choose(precision="int8", int8=True)


def test_int8_of_a_model_that_was_not_quantised_names_the_command(world: World) -> None:
    with pytest.raises(ArtifactError, match="offramp calibrate MODEL --precision int8"):
        world.choose(precision="int8")


def test_where_nothing_can_run_it_is_said_what_is_missing(world: World) -> None:
    for name in ("onnx", "openvino"):
        world.add(name, precisions=("fp32", "int8"), able=False)
    with pytest.raises(MissingExtraError, match="onnx is not installed"):
        world.choose(precision="int8", int8=True)


def test_the_first_run_which_allocates_does_not_count(world: World) -> None:
    class Cold(Flat):
        def step(self, k: int, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if len(self.ran) < 3:
                self.clock.pass_ms(500)
            return super().step(k, state)

    assert time_one(Cold((1, 2, 3), world.clock), subject(), world.clock) == pytest.approx(6)  # type: ignore[arg-type]


def test_measuring_ends_after_some_runs_and_after_a_second(world: World) -> None:
    quick, slow = Flat((1, 1, 1), world.clock), Flat((400, 400, 400), world.clock)
    assert time_one(quick, subject(), world.clock) == pytest.approx(3)  # type: ignore[arg-type]
    assert len(quick.ran) == 3 * 21
    assert time_one(slow, subject(), world.clock) == pytest.approx(1200)  # type: ignore[arg-type]
    assert len(slow.ran) == 3 * 2
