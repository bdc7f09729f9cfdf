import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.train.schedule import learning_rate


@given(st.integers(1, 500), st.floats(0.001, 10))
def test_without_warm_up_it_is_half_a_cosine_from_the_peak(total: int, peak: float) -> None:
    for step in range(0, total, max(1, total // 7)):
        expected = 0.5 * peak * (1 + math.cos(math.pi * step / total))
        assert learning_rate(step, peak=peak, warmup_steps=0, total_steps=total) == pytest.approx(expected)


def test_the_warm_up_rises_evenly_to_the_peak() -> None:
    rates = [learning_rate(step, peak=0.8, warmup_steps=4, total_steps=20) for step in range(5)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])


@given(st.integers(0, 50), st.integers(1, 200))
def test_it_never_rises_after_the_warm_up_nor_exceeds_the_peak_and_ends_near_zero(warmup: int, rest: int) -> None:
    total = warmup + rest
    rates = [learning_rate(step, peak=1.0, warmup_steps=warmup, total_steps=total) for step in range(total)]
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert min(rates) > 0
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] <= (math.pi / (2 * rest)) ** 2 + 1e-12


def test_the_middle_of_the_cosine_is_half_the_peak() -> None:
    assert learning_rate(15, peak=0.1, warmup_steps=5, total_steps=25) == pytest.approx(0.05)


def test_a_warm_up_as_long_as_the_run_or_longer_only_rises() -> None:
    rates = [learning_rate(step, peak=1.0, warmup_steps=20, total_steps=10) for step in range(10)]
    assert rates == pytest.approx([(step + 1) / 20 for step in range(10)])
    assert learning_rate(10, peak=1.0, warmup_steps=10, total_steps=10) == pytest.approx(1.0)
