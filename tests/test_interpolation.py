"""Interpolation between networks."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.decide.interpolation import envelope, interpolate
from offramp.errors import BudgetError, ConfigError

NETWORKS = st.lists(
    st.tuples(st.floats(1, 100), st.floats(0, 1)), min_size=1, max_size=6, unique_by=lambda pair: round(pair[0], 3)
)


def test_a_budget_between_two_networks_is_met_on_the_line_between_them() -> None:
    found = interpolate((10, 20), (0.6, 0.8), 15)
    assert found.shares == pytest.approx((0.5, 0.5))
    assert found.mean_cost == pytest.approx(15)
    assert found.accuracy == pytest.approx(0.7)


def test_a_network_below_the_line_of_two_others_gets_nothing() -> None:
    assert envelope((10, 15, 20), (0.6, 0.65, 0.8)) == [0, 2]
    assert interpolate((10, 15, 20), (0.6, 0.65, 0.8), 15).shares == pytest.approx((0.5, 0, 0.5))
    assert envelope((20, 15, 10), (0.8, 0.75, 0.6)) == [2, 1, 0]


def test_no_more_is_spent_than_gains_something() -> None:
    found = interpolate((10, 20, 30), (0.6, 0.8, 0.7), 100)
    assert (found.accuracy, found.mean_cost, found.shares) == (0.8, 20, (0, 1, 0))


@pytest.mark.parametrize("budget", [9.9, float("nan")])
def test_less_than_the_cheapest_network_costs_is_refused(budget: float) -> None:
    with pytest.raises(BudgetError, match="even the cheapest network costs 10; raise the budget"):
        interpolate((10, 20), (0.6, 0.8), budget)


@given(NETWORKS, st.floats(0, 1))
def test_no_mixture_of_two_does_better(networks: list[tuple[float, float]], place: float) -> None:
    costs, accuracies = zip(*networks, strict=True)
    budget = min(costs) + place * (max(costs) - min(costs))
    found = interpolate(costs, accuracies, budget)
    assert found.mean_cost <= budget * (1 + 1e-9)
    assert sum(found.shares) == pytest.approx(1)
    assert np.count_nonzero(found.shares) <= 2
    for (low, right_low), (high, right_high) in itertools.product(networks, repeat=2):
        if low <= budget < high:
            share = (budget - low) / (high - low)
            assert found.accuracy >= (1 - share) * right_low + share * right_high - 1e-9
        if low <= budget:
            assert found.accuracy >= right_low - 1e-9


def test_no_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 costs, 0 accuracies"):
        interpolate([], [], 1.0)
    with pytest.raises(ConfigError, match="2 costs, 1 accuracies"):
        interpolate([1.0, 2.0], [0.5], 1.0)
