import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offramp.engine.budgeted import run_budgeted
from offramp.engine.stage_queues import run_queued
from offramp.errors import ArtifactError, BudgetError, ConfigError
from offramp.measure.latency_table import measure_latencies
from offramp_runtime.budget import Flags, Scores
from offramp_runtime.calibration import Calibration
from offramp_runtime.latency_table import LatencyTable
from offramp_runtime.stage_table import Runs, Setting
from scripted import Numbered, pieces, samples, write_script
from tiny import Clock, Clockwork, make_net

HERE = Setting("machine", "eager", "fp32", "model")


def once(*stages: tuple[float, ...]) -> Runs:
    """One run for each size of each stage."""
    return tuple(tuple((ms,) for ms in stage) for stage in stages)


def table(sizes: tuple[int, ...], *stages: tuple[float, ...], take: float = 1e-9, join: float = 1e-9) -> LatencyTable:
    """As if every run had taken just that; regrouping in proportion to the rows."""
    borders = [sizes for _ in stages[1:]]
    takes, joins = (once(*(tuple(one * n for n in border) for border in borders)) for one in (take, join))
    return LatencyTable(HERE, sizes, once(*stages), takes, joins)


# ---- measuring


class Sized(Clockwork):
    """Stage k takes ``each[k]`` per batch and ``per[k]`` per image; taking and joining take 3 and 2 ms per row."""

    def __init__(self, each: tuple[float, ...], per: tuple[float, ...]) -> None:
        super().__init__(each)
        self.per, self.passes = per, 0

    def start(self, images: Tensor) -> Tensor:
        self.passes += 1
        return images

    def step(self, k: int, state: Tensor) -> tuple[Tensor, Tensor]:
        self.clock.pass_ms(self.per[k] * len(state))
        return super().step(k, state)

    def take(self, state: Tensor, rows: Tensor) -> Tensor:
        self.clock.pass_ms(3 * len(rows))
        return super().take(state, rows)

    def join(self, states: Sequence[Tensor]) -> Tensor:
        self.clock.pass_ms(2 * sum(map(len, states)))
        return super().join(states)


def measured(runtime: Sized, largest: int = 12, seconds: float = 1e3) -> LatencyTable:
    return measure_latencies(runtime, samples, HERE, largest=largest, seconds=seconds, clock=runtime.clock)


def test_every_stage_and_border_is_timed_at_every_size() -> None:
    found = measured(Sized((5.0, 7.0), (1.0, 2.0)))
    assert found.sizes == (1, 2, 4, 8, 12)
    assert (found.num_exits, found.note) == (2, "")
    for count in found.sizes:
        assert found.ms(0, count) == pytest.approx(5 + count)
        assert found.ms(1, count) == pytest.approx(7 + 2 * count)
        assert found.take(0, count) == pytest.approx(3 * count)
        assert found.join(0, count) == pytest.approx(2 * count)


def test_the_first_pass_of_each_size_is_not_counted() -> None:
    runtime = Sized((1.0,), (0.0,))
    found = measured(runtime, largest=2)
    assert [len(runs) for runs in found.stages[0]] == [5, 5]
    assert runtime.passes == 12


@pytest.mark.parametrize(("seconds", "sizes"), [(0.5, (1,)), (5.0, (1, 2, 4)), (1e3, (1, 2, 4, 8, 12))])
def test_a_slow_network_is_not_measured_longer_than_told(seconds: float, sizes: tuple[int, ...]) -> None:
    runtime = Sized((0.0,), (100.0,))
    began = runtime.clock()
    found = measured(runtime, seconds=seconds)
    assert runtime.clock() - began <= seconds
    assert found.sizes == sizes
    left_out = f"batches of {2 * sizes[-1]} and more would not fit into {seconds:g} s; in proportion to {sizes[-1]}"
    assert found.note == (left_out if sizes[-1] < 12 else "")


def test_one_image_is_measured_even_where_the_time_is_too_short() -> None:
    found = measured(Sized((50.0,), (0.0,)), seconds=0.01)
    assert found.sizes == (1,)
    assert found.ms(0, 1) == pytest.approx(50)


def test_a_clock_too_coarse_to_see_a_stage_does_not_make_it_free() -> None:
    found = measure_latencies(Clockwork((0, 0)), samples, HERE, largest=1, clock=Clock())
    assert found.costs((0.5, 0.5), 1, 1).at_exit[0] > 0


def test_a_real_network_can_be_measured_by_the_real_clock() -> None:
    found = measure_latencies(make_net(), lambda n: torch.zeros(n, 1, 16, 16), HERE, largest=2, seconds=5.0)
    assert found.sizes == (1, 2)
    assert found.num_exits == 3


# ---- reading


def test_milliseconds_are_linear_between_sizes_and_in_proportion_above_them() -> None:
    found = table((1, 4, 8), (10.0, 16.0, 40.0))
    assert [found.ms(0, count) for count in (1, 2, 4, 6, 8, 16)] == pytest.approx([10, 12, 16, 28, 40, 80])


def test_a_fraction_of_an_image_is_the_chance_of_there_being_one() -> None:
    assert table((2, 4), (10.0, 16.0)).ms(0, 0.25) == 2.5
    assert table((2, 4), (10.0, 16.0)).ms(0, 0) == 0


def test_a_quantile_tells_what_a_stage_stays_below_so_often() -> None:
    runs = (tuple(map(float, range(1, 102))),)
    assert LatencyTable(HERE, (1,), (runs,), (), ()).ms(0, 1, q=0.95) == pytest.approx(96)


@pytest.mark.parametrize(
    "change",
    [
        {"sizes": ()}, {"sizes": (2, 1)}, {"sizes": (0, 1)}, {"sizes": (1,)}, {"stages": ()}, {"takes": ()},
        {"joins": once((1.0, 1.0), (1.0, 1.0))}, {"stages": once((1.0, np.nan), (1.0, 1.0))},
        {"stages": once((1.0, 0.0), (1.0, 1.0))}, {"takes": (((), ()),)},
    ],
)  # fmt: skip
def test_a_table_whose_parts_do_not_fit_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(table((1, 2), (1.0, 2.0), (1.0, 2.0)), **change)  # type: ignore[arg-type]


# ---- regrouping


def test_regrouping_pays_when_the_later_stages_save_more_than_taking_costs() -> None:
    found = table((1, 10), (1.0, 10.0), (1.0, 10.0), (1.0, 10.0), take=1.5)
    # Before stage 1, nine of ten: two stages save 1 ms each, taking costs 13.5; five: 10 against 7.5.
    assert not found.pays(1, 9, 10)
    assert found.pays(1, 5, 10)
    # Before the last stage, five: 5 against 7.5.
    assert not found.pays(2, 5, 10)


def test_where_a_smaller_batch_is_no_faster_regrouping_never_pays() -> None:
    found = table((1, 10), (5.0, 5.0), (5.0, 5.0))
    assert not any(found.pays(1, count, 10) for count in range(1, 10))


# ---- costs


def test_a_single_batch_shrinks() -> None:
    found = table((1, 2, 4, 8), (8.0, 8.0, 8.0, 16.0), (6.0, 6.0, 8.0, 12.0), take=0.5, join=100.0)
    costs = found.costs((0.5, 0.5), images=8, batch=8)
    # 16 ms for eight, then taking four (2 ms) and running them (8 ms).
    assert costs.at_exit == pytest.approx((2.0, 2.0 + 10 / 4))
    assert found.expected_ms((0.5, 0.5), 8) == pytest.approx(26 / 8)


def test_in_queues_later_stages_run_full_batches_and_joining_is_paid_for() -> None:
    found = table((1, 2, 4, 8), (8.0, 8.0, 8.0, 16.0), (6.0, 6.0, 8.0, 12.0), take=0.5, join=0.25)
    # Of 40 images, 20 go on: two full batches of eight and one of four.
    spent = 5 * 16 + (20 * 0.5 + 20 * 0.25 + 2 * 12 + 8)
    assert found.expected_ms((0.5, 0.5), 40, 8, queued=True) == pytest.approx(spent / 40)


def test_several_batches_shrink_each_by_itself() -> None:
    found = table((1, 2, 4, 8), (8.0, 8.0, 8.0, 16.0), (6.0, 6.0, 8.0, 12.0), take=0.5, join=100.0)
    # Five times eight and once four, of which half go on.
    spent = 5 * (16 + 4 * 0.5 + 8) + (8 + 2 * 0.5 + 6)
    assert found.expected_ms((0.5, 0.5), 44, 8) == pytest.approx(spent / 44)


def test_where_nobody_leaves_nothing_is_taken() -> None:
    found = table((1, 4), (1.0, 4.0), (1.0, 4.0), take=100.0)
    assert found.expected_ms((0.0, 1.0), 4) == pytest.approx(2.0)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), often=st.floats(0, 1), count=st.integers(1, 40), batch=st.integers(1, 16))
def test_what_is_expected_of_queues_is_what_they_really_take(seed: int, often: float, count: int, batch: int) -> None:
    script, runtime = write_script(seed, 3, count, often), Sized((5.0, 7.0, 2.0), (1.0, 2.0, 0.5))
    expecting = measure_latencies(runtime, samples, HERE, largest=64, seconds=1e3, clock=runtime.clock)
    began = runtime.clock.now
    for _ in run_queued(runtime, pieces(samples(count), batch), script, Numbered(), batch_size=batch, window=64):
        pass
    shares = tuple((np.bincount(script.exits, minlength=3) / count).tolist())
    really_ms = (runtime.clock.now - began) * 1e3
    # Not every batch is joined or cut: those that come full and whole are handed on.
    moved = 2 * (3 + 2) * count
    expected_ms = count * expecting.expected_ms(shares, count, batch, queued=True)
    assert expected_ms - moved - 1e-6 <= really_ms <= expected_ms + 1e-6


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), often=st.floats(0, 1), count=st.integers(1, 40))
def test_what_is_expected_of_one_batch_is_what_it_really_takes(seed: int, often: float, count: int) -> None:
    script, runtime = write_script(seed, 3, count, often), Sized((5.0, 7.0, 2.0), (1.0, 2.0, 0.5))
    expecting = measure_latencies(runtime, samples, HERE, largest=64, seconds=1e3, clock=runtime.clock)
    began = runtime.clock.now
    run_budgeted(runtime, samples(count), script, Numbered())
    shares = tuple((np.bincount(script.exits, minlength=3) / count).tolist())
    assert (runtime.clock.now - began) * 1e3 == pytest.approx(count * expecting.expected_ms(shares, count))


# ---- solving


def seen(count: int = 400) -> Calibration:
    """Confidences of all sorts."""
    draw = np.random.default_rng(0)
    confidence: Scores = draw.random((3, count)).astype(np.float32)
    correct: Flags = draw.random((3, count)) < 0.8
    return Calibration(confidence, correct, "drawn", 0, np.arange(count), "model")


SHRINKING = table((1, 8, 64), (5.0, 8.0, 40.0), (5.0, 8.0, 40.0), (5.0, 8.0, 40.0), take=0.05, join=0.05)


@given(place=st.floats(0, 1), images=st.sampled_from([1, 8, 64, 1000]))
def test_what_is_really_spent_meets_the_budget(place: float, images: int) -> None:
    low, high = (SHRINKING.expected_ms(shares, images, 64) for shares in ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)))
    budget = low + place * (high - low)
    plan = seen().solve(budget, SHRINKING.pricing(images, 64))
    spent = SHRINKING.expected_ms(plan.expected.shares, images, 64)
    assert spent == pytest.approx(plan.expected.mean_cost)
    assert spent <= budget * (1 + 1e-9)
    assert spent >= low + 0.9 * (budget - low) - 0.1 * low


def test_times_of_full_batches_would_overspend_on_one_that_shrinks() -> None:
    full = SHRINKING.costs((0.0, 0.0, 1.0), 64, 64)
    naive, solved = seen().solve(1.0, full), seen().solve(1.0, SHRINKING.pricing(64, 64))
    assert SHRINKING.expected_ms(naive.expected.shares, 64) > 1.05
    assert 0.95 < SHRINKING.expected_ms(solved.expected.shares, 64) <= 1.0


def test_a_budget_below_exit_0_at_that_batch_size_is_refused() -> None:
    seen().solve(1.0, SHRINKING.pricing(64, 64))
    with pytest.raises(BudgetError, match=r"budget 1 ms is below exit 0, the cheapest \(5 ms\)"):
        seen().solve(1.0, SHRINKING.pricing(1, 64))


# ---- files


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    SHRINKING.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json", HERE) == SHRINKING


@pytest.mark.parametrize("field", ["machine", "runtime", "precision", "model"])
def test_a_table_of_another_setting_is_refused_by_name(field: str, tmp_path: Path) -> None:
    SHRINKING.save(tmp_path / "table.json")
    own = getattr(HERE, field)
    with pytest.raises(
        ArtifactError, match=rf"table\.json: measured with {field} {own} instead of other; measure it again"
    ):
        LatencyTable.load(tmp_path / "table.json", replace(HERE, **{field: "other"}))


def without_takes(stored: dict[str, object]) -> object:
    return {name: value for name, value in stored.items() if name != "takes"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda stored: stored | {"format": "offramp-energy-table"}, "is not 'offramp-latency-table'"),
        (lambda stored: stored | {"version": 2}, "version 2 is newer than this offramp understands"),
        (lambda stored: stored | {"sizes": [1]}, "incomplete or damaged"),
        (lambda stored: stored | {"stages": [["x"]]}, "incomplete or damaged"),
        (lambda stored: stored | {"setting": {}}, "incomplete or damaged"),
        (without_takes, "incomplete or damaged"),
    ],
)
def test_a_damaged_foreign_or_newer_table_is_refused(
    damage: Callable[[dict[str, object]], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "table.json"
    SHRINKING.save(path)
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(ArtifactError, match=message):
        LatencyTable.load(path, HERE)
