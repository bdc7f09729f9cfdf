import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest

from offramp.train.events import Events

Curve = list[tuple[int, float]]


def line(step: int, value: float) -> dict[str, Any]:
    return {
        "step": step, "losses": (value, 2 * value), "calibrate_top1": (value / 10, value / 5), "images_per_s": 100 * value,
    }  # fmt: skip


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Any:
    """TensorBoard's own reader."""
    if importlib.util.find_spec("tensorboard") is None:
        pytest.skip("TensorBoard is not installed")
    with warnings.catch_warnings(action="ignore"):
        return importlib.import_module("tensorboard.backend.event_processing.event_accumulator").EventAccumulator


def curves(recorder: Any, folder: Path) -> dict[str, Curve]:
    found = recorder(str(folder)).Reload()
    return {
        tag: [(event.step, round(event.value, 6)) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]
    }


def test_every_figure_of_an_epoch_becomes_a_curve(recorder: Any, tmp_path: Path) -> None:
    with Events.open(tmp_path, 0) as events:
        events.write(line(4, 1.0))
        events.write(line(8, 0.5))
    assert curves(recorder, tmp_path) == {
        "losses/exit0": [(4, 1.0), (8, 0.5)],
        "losses/exit1": [(4, 2.0), (8, 1.0)],
        "calibrate_top1/exit0": [(4, 0.1), (8, 0.05)],
        "calibrate_top1/exit1": [(4, 0.2), (8, 0.1)],
        "images_per_s": [(4, 100), (8, 50)],
    }


def test_what_is_written_can_be_seen_while_the_run_goes_on(recorder: Any, tmp_path: Path) -> None:
    with Events.open(tmp_path, 0) as events:
        events.write(line(4, 1.0))
        assert curves(recorder, tmp_path)["images_per_s"] == [(4, 100)]


@pytest.mark.parametrize(("step", "kept"), [(0, []), (4, [(4, 100)]), (6, [(4, 100)]), (8, [(4, 100), (8, 200)])])
def test_what_a_resumed_run_does_again_is_taken_back_and_nothing_before(
    recorder: Any, tmp_path: Path, step: int, kept: Curve
) -> None:
    with Events.open(tmp_path, 0) as events:
        for done, value in ((4, 1.0), (8, 2.0), (12, 3.0)):
            events.write(line(done, value))
    with Events.open(tmp_path, step) as events:
        events.write(line(16, 7.0))
    assert curves(recorder, tmp_path)["images_per_s"] == [*kept, (16, 700)]


def test_without_tensorboard_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offramp.train.events.importlib.util.find_spec", lambda name: None)
    with Events.open(tmp_path / "events", 0) as events:
        events.write(line(4, 1.0))
    assert not (tmp_path / "events").exists()
