import threading
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from offramp.engine.anytime import AnytimePredictor
from offramp.errors import BudgetError
from offramp.runtimes import Cancellation
from tiny import PREPROCESSING, images

PIXELS = images(1)
MOMENT_MS = 30.0
"""A deadline that passes while nothing happens."""


class Gated:
    """A runtime whose stages wait until they are let through, three of them."""

    num_exits = 3

    def __init__(self) -> None:
        self.gates = [threading.Event() for _ in range(self.num_exits)]
        self.entered = [threading.Event() for _ in range(self.num_exits)]

    def start(self, images: Tensor) -> Tensor:
        return images

    def step(self, k: int, state: Tensor) -> tuple[Tensor, Tensor]:
        self.entered[k].set()
        assert self.gates[k].wait(60)
        return state, torch.tensor([[float(k), 0.0]])

    def take(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[rows]

    def join(self, states: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(states))

    def open(self, *stages: int) -> None:
        for k in stages:
            self.gates[k].set()


class Interruptible(Gated):
    """A gated runtime that lets go of a stage as soon as it is told to."""

    def step_unless(self, cancelled: Cancellation, k: int, state: Tensor) -> tuple[Tensor, Tensor] | None:
        cancelled.attach(self.gates[k].set)
        done = self.step(k, state)
        return None if cancelled.is_set else done


def predictor_of(runtime: Gated) -> AnytimePredictor[Tensor]:
    return AnytimePredictor(runtime, PREPROCESSING)


def test_the_latest_answer_is_none_before_exit_0_and_then_that_of_the_newest_exit() -> None:
    runtime = Gated()
    with predictor_of(runtime).start(PIXELS) as run:
        assert runtime.entered[0].wait(60)
        assert run.latest() is None
        for k in range(2):
            runtime.open(k)
            assert runtime.entered[k + 1].wait(60)
            answer = run.latest()
            assert answer is not None
            assert answer.exit_index.tolist() == [k]
        assert not run.done
        runtime.open(2)
        assert run.wait() is run.latest()
        assert run.done
        assert run.wait().exit_index.tolist() == [2]


def test_waiting_ends_at_the_deadline_with_the_answer_of_then_and_the_run_goes_on() -> None:
    runtime = Gated()
    runtime.open(0)
    with predictor_of(runtime).start(PIXELS) as run:
        assert runtime.entered[1].wait(60)
        assert run.wait(MOMENT_MS).exit_index.tolist() == [0]
        assert run.wait(MOMENT_MS / 2).exit_index.tolist() == [0]  # past already
        assert not run.done
        runtime.open(1, 2)
        assert run.wait().exit_index.tolist() == [2]


def test_waiting_ends_before_the_deadline_when_no_deeper_answer_will_come() -> None:
    runtime = Gated()
    runtime.open(0, 1, 2)
    with predictor_of(runtime).start(PIXELS) as run:
        assert run.wait(1e9).exit_index.tolist() == [2]


def test_a_deadline_of_a_wait_counts_from_the_start() -> None:
    now = 5.0
    runtime = Gated()
    runtime.open(0)
    predictor = AnytimePredictor(runtime, PREPROCESSING, clock=lambda: now)
    with predictor.start(PIXELS) as run:
        assert runtime.entered[1].wait(60)
        now += 100.0
        assert run.wait(100_000).exit_index.tolist() == [0]  # a hundred seconds would outlast this test
        runtime.open(1, 2)


def test_waiting_in_vain_for_exit_0_is_an_error() -> None:
    runtime = Gated()
    with predictor_of(runtime).start(PIXELS) as run:
        with pytest.raises(BudgetError, match="exit 0 had no answer within 30 ms; allow more time"):
            run.wait(MOMENT_MS)
        runtime.open(0, 1, 2)
        assert run.wait().exit_index.tolist() == [2]


def after_cancelling(runtime: Gated, monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> None:
    """Cancel in stage 1, check what stays, do ``then`` and wait until the only thread is free again."""
    monkeypatch.setattr("offramp.engine.anytime.THREADS", 1)
    predictor = predictor_of(runtime)
    runtime.open(0)
    run = predictor.start(PIXELS)
    assert runtime.entered[1].wait(60)
    run.cancel()
    assert run.done
    assert run.wait().exit_index.tolist() == [0]  # at once: stage 1 is still running
    then()
    runtime.gates[0].clear()
    runtime.entered[0].clear()
    with predictor.start(PIXELS):
        assert runtime.entered[0].wait(60)
        assert not runtime.entered[2].is_set()
        assert run.wait().exit_index.tolist() == [0]
    runtime.open(0)


def test_a_cancelled_run_keeps_its_answer_and_ends_after_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Gated()
    after_cancelling(runtime, monkeypatch, lambda: runtime.open(1))


def test_an_interruptible_runtime_is_left_within_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    after_cancelling(Interruptible(), monkeypatch, lambda: None)


def test_an_interruptible_runtime_answers_like_any_other() -> None:
    runtime = Interruptible()
    runtime.open(0, 1, 2)
    assert predictor_of(runtime).start(PIXELS).wait().exit_index.tolist() == [2]


def test_waiting_for_a_run_that_was_cancelled_before_exit_0_is_an_error() -> None:
    runtime = Gated()
    run = predictor_of(runtime).start(PIXELS)
    run.cancel()
    with pytest.raises(BudgetError, match="exit 0 had no answer before it was cancelled"):
        run.wait()
    assert run.latest() is None
    runtime.open(0, 1, 2)


def test_leaving_the_context_cancels() -> None:
    runtime = Gated()
    with predictor_of(runtime).start(PIXELS) as run:
        assert not run.done
    assert run.done
    assert run.cancelled.is_set
    runtime.open(0, 1, 2)


def test_what_goes_wrong_in_the_other_thread_is_raised_where_the_answer_is_waited_for() -> None:
    class Broken(Gated):
        def start(self, images: Tensor) -> Tensor:
            raise RuntimeError(f"out of luck with {len(images)}")

    run = predictor_of(Broken()).start(PIXELS)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of luck"):
            run.wait()
    assert run.latest() is None
    assert run.done
