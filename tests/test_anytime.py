from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from offramp.engine.anytime import run_until
from offramp.errors import BudgetError
from tiny import Clockwork, make_net

IMAGES = torch.arange(3.0)
stage_ms = st.lists(st.integers(1, 50), min_size=1, max_size=6).map(tuple)


def exits_before(
    deadline_ms: float, measured: tuple[float, ...], actual: tuple[float, ...] | None = None, *, decode_ms: float = 0
) -> list[int]:
    """The exits answered at, where stages were measured and really take so many milliseconds."""
    runtime = Clockwork(actual or measured)

    def images() -> Tensor:
        runtime.clock.pass_ms(decode_ms)
        return IMAGES

    return [k for k, _ in run_until(runtime, images, deadline_ms, measured, runtime.clock)]


@given(stage_ms, st.integers(1, 320))
def test_the_deepest_exit_whose_stages_fit_is_the_last_answer(measured: tuple[float, ...], whole_ms: int) -> None:
    deadline = whole_ms + 0.5  # between two ticks, where rounding does not matter
    fitting = [k for k, ready in enumerate(accumulate(measured)) if ready <= deadline]
    if fitting:
        assert exits_before(deadline, measured) == fitting
    else:
        with pytest.raises(BudgetError):
            exits_before(deadline, measured)


def test_a_deadline_before_exit_0_is_refused_before_anything_runs() -> None:
    runtime = Clockwork((5.0, 5.0))

    def never() -> Tensor:
        raise AssertionError("images were prepared for nothing")

    with pytest.raises(BudgetError, match=r"deadline 4\.9 ms is too short for exit 0, which takes about 5 ms here"):
        next(run_until(runtime, never, 4.9, (5.0, 5.0), runtime.clock))
    assert runtime.ran == []


@pytest.mark.parametrize("deadline", [0, -1, float("-inf"), float("nan")])
def test_a_deadline_that_is_no_positive_number_is_refused(deadline: float) -> None:
    with pytest.raises(BudgetError, match="must be a positive number of milliseconds"):
        exits_before(deadline, (0.0, 0.0))


def test_without_a_deadline_every_exit_answers() -> None:
    assert exits_before(float("inf"), (1e6, 1e6, 1e6)) == [0, 1, 2]


@given(stage_ms, st.data())
def test_a_stage_slower_than_measured_stops_the_later_ones(measured: tuple[float, ...], data: st.DataObject) -> None:
    slow = data.draw(st.integers(0, len(measured) - 1))
    deadline = sum(measured) + 0.5
    actual = tuple(ms + (1000 if k == slow else 0) for k, ms in enumerate(measured))
    assert exits_before(deadline, measured, actual) == list(range(slow + 1))


def test_a_network_faster_than_measured_gets_as_deep_as_the_clock_allows() -> None:
    assert exits_before(30.5, (10, 10, 10, 10), (5, 5, 5, 5)) == [0, 1, 2, 3]


def test_preparing_the_images_counts() -> None:
    assert exits_before(30.5, (10, 10, 10)) == [0, 1, 2]
    assert exits_before(30.5, (10, 10, 10), decode_ms=5) == [0, 1]


def consumed(think_ms: float) -> list[int]:
    runtime = Clockwork((10, 10, 10))
    taken = []
    for k, _ in run_until(runtime, lambda: IMAGES, 30.5, (10, 10, 10), runtime.clock):
        taken.append(k)
        runtime.clock.pass_ms(think_ms)
    return taken


def test_time_spent_between_two_answers_counts_too() -> None:
    assert consumed(think_ms=0) == [0, 1, 2]
    assert consumed(think_ms=1) == [0, 1]
    assert consumed(think_ms=15) == [0]


def test_the_clock_starts_when_the_first_answer_is_asked_for() -> None:
    runtime = Clockwork((10, 10))
    answers = run_until(runtime, lambda: IMAGES, 20.5, (10, 10), runtime.clock)
    runtime.clock.pass_ms(1000)
    assert [k for k, _ in answers] == [0, 1]


def test_nothing_is_computed_before_it_is_asked_for() -> None:
    runtime = Clockwork((1, 1, 1))
    answers = run_until(runtime, lambda: IMAGES, 100, (1, 1, 1), runtime.clock)
    assert runtime.ran == []
    next(answers)
    assert runtime.ran == [0]


def test_the_answers_are_those_of_walking_the_network() -> None:
    net, images = make_net(), torch.randn(3, 1, 16, 16)
    found = list(run_until(net, lambda: images, float("inf"), (0, 0, 0)))
    assert [k for k, _ in found] == [0, 1, 2]
    for (_, logits), expected in zip(found, net.walk(images), strict=True):
        torch.testing.assert_close(logits, expected.detach(), rtol=0, atol=1e-6)
        assert not logits.requires_grad
