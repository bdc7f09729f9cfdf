import math
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import ConfigError
from offramp_runtime.stage_clock import WINDOW, StageClock, check_confidence, learn
from tiny import Clock

PATIENCE = 100
"""Times a stage is withheld in a row before it is tried, at the confidence 0.99."""
milliseconds = st.lists(st.integers(1, 50).map(float), min_size=1, max_size=600)


def clock_that_saw(*ms: float, confidence: float = 0.99) -> StageClock:
    clock = StageClock(2, confidence)
    for one in ms:
        clock.saw(1, one)
    return clock


@given(milliseconds, st.floats(0.05, 0.99))
def test_a_stage_is_allowed_what_its_newest_runs_stay_below_so_often(runs: list[float], confidence: float) -> None:
    newest = sorted(runs[-WINDOW:])
    allowed = clock_that_saw(*runs, confidence=confidence).allow_ms(1)
    # The next run may come to lie at any of the n + 1 places among the n with the same probability.
    below = 1 + sum(run < allowed for run in newest)
    through = 1 + sum(run <= allowed for run in newest)
    assert allowed in newest
    assert below <= math.ceil(confidence * (len(newest) + 1))
    assert through > confidence * (len(newest) + 1) or allowed == newest[-1]


def test_few_runs_allow_as_much_as_the_longest_took() -> None:
    assert clock_that_saw(3, 9, 4).allow_ms(1) == 9


def test_one_outlier_among_many_runs_is_not_allowed_for() -> None:
    assert clock_that_saw(*[2.0] * 255, 90).allow_ms(1) == 2


def test_stages_are_judged_apart() -> None:
    clock = StageClock(2)
    clock.saw(0, 1)
    clock.saw(1, 5)
    assert [clock.allow_ms(k) for k in range(2)] == [1, 5]


def test_a_stage_never_seen_fits_no_deadline_but_none() -> None:
    clock = StageClock(2)
    assert not clock.fits(1, 1e9)
    assert clock.fits(1, math.inf)


def test_a_stage_fits_when_it_would_be_done_at_the_last_moment() -> None:
    clock = clock_that_saw(5)
    assert clock.fits(1, 5)
    assert not clock.fits(1, 4.999)


def asked(clock: StageClock, times: int, left_ms: float) -> list[int]:
    """Which of so many questions were answered with yes."""
    return [turn for turn in range(times) if clock.fits(1, left_ms)]


def test_a_stage_withheld_for_a_moment_of_noise_is_tried_again() -> None:
    clock = clock_that_saw(90, 90, *[2.0] * 100)
    assert asked(clock, PATIENCE, left_ms=10) == []
    assert clock.fits(1, 10)  # the try, which forgets one of the two
    clock.saw(1, 2)
    assert asked(clock, PATIENCE, left_ms=10) == []
    assert clock.fits(1, 10)
    clock.saw(1, 2)
    assert asked(clock, PATIENCE, left_ms=10) == list(range(PATIENCE))


def test_a_burst_that_filled_the_window_is_overcome_in_a_few_tries() -> None:
    clock = clock_that_saw(*[2.0] * 150, *[90.0] * 100)
    tries = 0
    for _ in range(10 * PATIENCE):
        if clock.fits(1, 10):
            tries += 1
            clock.saw(1, 2)
    assert clock.allow_ms(1) == 2
    assert tries > 2 * PATIENCE  # it runs as a matter of course again


def test_a_stage_that_stays_slow_costs_no_more_tries_than_the_confidence_allows() -> None:
    clock = clock_that_saw(*[2.0] * 200, *[90.0] * 20)
    tried = 0
    for _ in range(10 * PATIENCE):
        if clock.fits(1, 10):
            tried += 1
            clock.saw(1, 90)
    assert tried <= 10


def test_a_stage_that_was_slow_for_longer_than_it_remembers_is_tried_again() -> None:
    clock = clock_that_saw(*[2.0] * 5, *[90.0] * WINDOW)
    assert clock.median_ms(1) == 90
    assert asked(clock, PATIENCE + 1, left_ms=10) == [PATIENCE]


def test_a_stage_that_never_fitted_is_never_tried() -> None:
    assert asked(clock_that_saw(90, 91, 92), 5 * PATIENCE, left_ms=10) == []


def test_stage_0_is_not_withheld_for_a_few_slow_runs() -> None:
    clock = StageClock(1)
    for ms in [90.0] * 3 + [2.0] * 200:
        clock.saw(0, ms)
    assert clock.fits(0, 10)


def test_stage_0_withheld_for_many_slow_runs_is_tried_after_twenty_refusals() -> None:
    clock = StageClock(1)
    for ms in [2.0] * 100 + [90.0] * 100:
        clock.saw(0, ms)
    assert [turn for turn in range(21) if clock.fits(0, 10)] == [20]


def test_stage_0_takes_less_confidence_if_asked_to() -> None:
    clock = StageClock(1, 0.5)
    for ms in (2, 2, 2, 90, 90):
        clock.saw(0, ms)
    assert clock.fits(0, 2)


def test_less_confidence_tries_sooner() -> None:
    clock = clock_that_saw(2, 2, 2, 90, confidence=0.9)
    assert asked(clock, 11, left_ms=10) == [10]


def test_a_run_in_between_starts_the_count_of_withheld_times_anew() -> None:
    clock = clock_that_saw(*[2.0] * 50, 90)
    for _ in range(3):
        assert asked(clock, PATIENCE, left_ms=10) == []
        clock.saw(1, 2)


def test_many_threads_may_ask_and_tell_at_once() -> None:
    clock = StageClock(2)

    def work() -> None:
        for turn in range(500):
            clock.saw(turn % 2, 3)
            clock.fits(turn % 2, 2)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(WINDOW):
        clock.saw(0, 7)
        clock.saw(1, 8)
    assert [clock.allow_ms(k) for k in range(2)] == [7, 8]


@pytest.mark.parametrize("confidence", [0, 1, -0.5, 99, math.nan])
def test_a_confidence_that_is_no_probability_is_refused(confidence: float) -> None:
    with pytest.raises(ConfigError, match=r"must lie between 0 and 1, such as 0\.99"):
        check_confidence(confidence)


# ---- learning


def learnt(
    clock: Clock, seconds: float, *ms_of_run: tuple[float, ...], rest_ms: float = 0, slower_after_rest: float = 0
) -> tuple[StageClock, int]:
    """The clock that saw runs whose stages took so long, the last for all later runs, and how many stages ran."""
    ran, rested = 0, False
    runs = iter(ms_of_run)

    def rest() -> None:
        nonlocal rested
        rested = True
        clock.pass_ms(rest_ms)

    def run(stages: StageClock) -> Iterator[None]:
        nonlocal ran, rested
        for k, one in enumerate(next(runs, ms_of_run[-1])):
            one += slower_after_rest if rested else 0
            rested = False
            clock.pass_ms(one)
            stages.saw(k, one)
            ran += 1
            yield

    return learn(run, len(ms_of_run[0]), 0.99, seconds, clock, rest=rest), ran


def spent_ms(clock: Clock, do: Callable[[], object]) -> float:
    began = clock()
    do()
    return (clock() - began) * 1e3


def test_the_first_run_which_warms_up_does_not_count() -> None:
    stages, _ = learnt(Clock(), 1.5, (700, 9), (2, 3))
    assert [stages.allow_ms(k) for k in range(2)] == [2, 3]


def test_the_first_run_never_counts_however_long_it_takes() -> None:
    stages, ran = learnt(Clock(), 1.5, (500, 60_000), (2, 3))
    assert [stages.allow_ms(k) for k in range(2)] == [2, 3]
    assert ran == 4


def test_learning_ends_when_the_newest_runs_are_all_there() -> None:
    assert learnt(Clock(), 1e9, (1, 1))[1] == 2 * (1 + WINDOW)


@given(st.lists(st.integers(20, 700), min_size=1, max_size=5), st.integers(1, 4))
def test_learning_takes_its_time_and_at_most_one_stage_more_or_one_run(ms: list[int], slower: int) -> None:
    clock, seconds = Clock(), 1.5
    later = tuple(one * slower for one in ms)
    spent = spent_ms(clock, lambda: learnt(clock, seconds, tuple(ms), later))
    assert spent <= max(1500 + max(later), sum(ms) + sum(later)) + 1e-3


def test_what_is_learnt_is_what_a_machine_takes_that_has_rested() -> None:
    stages, ran = learnt(Clock(), 1.503, (2, 3), rest_ms=5, slower_after_rest=4)
    assert [stages.median_ms(k) for k in range(2)] == [6, 3]
    assert ran // 2 - 1 == (1503 - 2 - 3) // (6 + 3 + 5)  # rests are part of the time that is spent


def test_every_stage_is_seen_however_short_the_time() -> None:
    stages, _ = learnt(Clock(), 0.1, (20, 20), (80, 80))
    assert [stages.allow_ms(k) for k in range(2)] == [80, 80]


def test_a_few_slow_runs_of_what_is_unavoidable_leave_nobody_without_an_answer() -> None:
    stages = StageClock(3, 0.99, unavoidable=(0, 2))
    for run in range(100):
        for k in range(3):
            stages.saw(k, 5 if run == 7 else 1)
    assert [stages.allow_ms(k) for k in range(3)] == [1, 5, 1]
