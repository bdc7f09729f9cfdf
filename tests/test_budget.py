import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from offramp.errors import BudgetError
from offramp_runtime.budget import Flags, Outcome, Scores, exit_indices, exit_shares, simulate, solve_thresholds
from offramp_runtime.costs import Costs


@dataclass(frozen=True)
class Problem:
    confidence: Scores
    costs: Costs

    @property
    def sample_worth(self) -> float:
        """What the mean cost changes by, at most, where one sample per exit goes elsewhere."""
        num_exits, count = self.confidence.shape
        return float(num_exits * (self.costs.at_exit[-1] - self.costs.at_exit[0]) / count)

    def budget(self, place: float) -> float:
        """0 is the cost of exit 0, 1 that of the last exit."""
        first, last = self.costs.at_exit[0], self.costs.at_exit[-1]
        return first + place * (last - first)

    def mean_cost(self, thresholds: tuple[float, ...]) -> float:
        return outcome(self.confidence, thresholds, self.costs).mean_cost


def outcome(confidence: Scores, thresholds: tuple[float, ...], costs: Costs) -> Outcome:
    return simulate(confidence, np.zeros(confidence.shape, bool), thresholds, costs)


def random_costs(draw: np.random.Generator, num_exits: int) -> Costs:
    return Costs(tuple(draw.uniform(1, 10, num_exits).cumsum().tolist()), "MAC")


@st.composite
def problems(draw: st.DrawFn, *, ties: bool, least_exits: int = 1) -> Problem:
    """Scores of random samples; with ties also coarse ones, and ones of which many are saturated at 1."""
    num_exits, count = draw(st.integers(least_exits, 6)), draw(st.integers(1, 300))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if ties:
        confidence = np.minimum(1, random.random((num_exits, count)) * draw(st.sampled_from([1.0, 1.5, 100.0])))
        confidence = confidence.round(draw(st.sampled_from([0, 1, 2, 9])))
    else:  # distinct at each exit, and further apart than any rounding error
        grid = np.arange(1, count + 1) / 1000
        confidence = np.stack([random.permutation(grid) for _ in range(num_exits)])
    return Problem(confidence.astype(np.float32), random_costs(random, num_exits))


places = st.floats(0, 1.2)


@given(problems(ties=True) | problems(ties=False), places)
def test_the_mean_cost_is_never_above_the_budget(problem: Problem, place: float) -> None:
    budget = problem.budget(place)
    thresholds = solve_thresholds(problem.confidence, problem.costs, budget)
    assert problem.mean_cost(thresholds) <= budget * (1 + 1e-12)


@given(problems(ties=False), places)
def test_where_no_confidences_are_equal_the_budget_is_used_up_to_a_few_samples(problem: Problem, place: float) -> None:
    budget = min(problem.budget(place), problem.costs.at_exit[-1])
    thresholds = solve_thresholds(problem.confidence, problem.costs, budget)
    assert problem.mean_cost(thresholds) >= budget - problem.sample_worth - 1e-9


@given(problems(ties=False), places, places)
def test_a_larger_budget_does_not_lower_the_mean_cost_by_more_than_a_few_samples(
    problem: Problem, one: float, other: float
) -> None:
    small, large = (
        problem.mean_cost(solve_thresholds(problem.confidence, problem.costs, problem.budget(place)))
        for place in sorted((one, other))
    )
    assert large >= small - problem.sample_worth - 1e-9


@pytest.mark.parametrize("place", [0.6, 0.8, 0.95, 0.999])
def test_budgets_beyond_the_mean_of_the_costs_can_be_met_too(place: float) -> None:
    confidence = np.random.default_rng(0).random((4, 5000)).astype(np.float32)
    problem = Problem(confidence, Costs((1.0, 2.0, 4.0, 8.0), "MAC"))
    budget = problem.budget(place)
    assert budget > np.mean(problem.costs.at_exit)
    assert problem.mean_cost(solve_thresholds(confidence, problem.costs, budget)) == pytest.approx(budget, rel=2e-3)


@given(problems(ties=True), st.floats(0, 0.999))
def test_a_budget_below_exit_0_is_refused(problem: Problem, share: float) -> None:
    with pytest.raises(BudgetError, match="below exit 0, the cheapest"):
        solve_thresholds(problem.confidence, problem.costs, share * problem.costs.at_exit[0])


def test_the_refusal_names_the_budget_and_the_cost_of_exit_0() -> None:
    with pytest.raises(BudgetError, match=r"budget 9 MMAC is below exit 0, the cheapest \(13\.2 MMAC\); raise"):
        solve_thresholds(np.ones((2, 3), np.float32), Costs((13.2e6, 2e7), "MAC"), 9e6)


@given(problems(ties=True), st.floats(1, 3))
def test_a_budget_of_the_last_exit_or_more_sends_everybody_there(problem: Problem, factor: float) -> None:
    thresholds = solve_thresholds(problem.confidence, problem.costs, factor * problem.costs.at_exit[-1])
    assert thresholds == (math.inf,) * (len(problem.costs.at_exit) - 1) + (-math.inf,)
    assert outcome(problem.confidence, thresholds, problem.costs).shares[-1] == 1


@given(problems(ties=True))
def test_a_budget_of_exit_0_lets_everybody_leave_there(problem: Problem) -> None:
    thresholds = solve_thresholds(problem.confidence, problem.costs, problem.costs.at_exit[0])
    assert outcome(problem.confidence, thresholds, problem.costs).shares[0] == 1


@given(problems(ties=True) | problems(ties=False), places)
def test_no_threshold_equals_a_confidence_unless_its_neighbour_is_the_next_number(
    problem: Problem, place: float
) -> None:
    thresholds = solve_thresholds(problem.confidence, problem.costs, problem.budget(place))
    exits = exit_indices(problem.confidence, thresholds)
    for k, threshold in enumerate(thresholds[:-1]):
        asked = problem.confidence[k, exits >= k]
        on_it = asked == np.float32(threshold)
        below = asked[asked < np.float32(threshold)]
        if on_it.any():
            assert np.nextafter(below.max(), np.float32(2)) == np.float32(threshold)


@given(problems(ties=False), places, st.integers(0, 2**32 - 1))
def test_noise_in_the_last_digits_flips_nobody(problem: Problem, place: float, seed: int) -> None:
    thresholds = solve_thresholds(problem.confidence, problem.costs, problem.budget(place))
    noise = np.random.default_rng(seed).uniform(-1e-7, 1e-7, problem.confidence.shape)
    noisy = (problem.confidence + noise).astype(np.float32)
    assert np.array_equal(exit_indices(noisy, thresholds), exit_indices(problem.confidence, thresholds))


def test_between_two_numbers_without_another_between_them_the_surer_one_still_leaves_alone() -> None:
    low = np.float32(0.7)
    high = np.nextafter(low, np.float32(1))
    for pair in ([low, high], [high, np.nextafter(high, np.float32(1))]):
        confidence = np.array([pair, pair], np.float32)
        thresholds = solve_thresholds(confidence, Costs((1.0, 3.0), "MAC"), 2.0)
        assert exit_indices(confidence, thresholds).tolist() == [1, 0]


@given(problems(ties=True, least_exits=2), places)
def test_equally_sure_samples_leave_together(problem: Problem, place: float) -> None:
    confidence = np.concatenate([problem.confidence, problem.confidence], axis=1)
    exits = exit_indices(confidence, solve_thresholds(confidence, problem.costs, problem.budget(place)))
    half = exits.size // 2
    assert np.array_equal(exits[:half], exits[half:])


def test_where_everybody_is_fully_sure_at_exit_0_all_leave_there_or_none() -> None:
    confidence = np.ones((3, 50), np.float32)
    costs = Costs((1.0, 2.0, 4.0), "MAC")
    for budget in np.linspace(1, 4, 13):
        shares = outcome(confidence, solve_thresholds(confidence, costs, float(budget)), costs).shares
        assert sorted(shares) == [0, 0, 1]


def test_a_single_exit_takes_everybody() -> None:
    assert solve_thresholds(np.ones((1, 4), np.float32), Costs((5.0,), "MAC"), 5.0) == (-math.inf,)


@given(st.floats(0.01, 20), st.integers(1, 12))
def test_shares_are_proportional_to_powers_of_r(r: float, num_exits: int) -> None:
    shares = exit_shares(float(np.log(r)), num_exits)
    assert shares.sum() == pytest.approx(1)
    assert shares[1:] / shares[:-1] == pytest.approx([r] * (num_exits - 1))


def test_everybody_leaves_at_the_first_exit_that_is_sure_enough_or_at_the_last() -> None:
    confidence: Scores = np.array([[0.9, 0.2, 0.2, 0.5], [0.1, 0.8, 0.3, 0.9], [0.1, 0.1, 0.1, 0.1]], np.float32)
    assert exit_indices(confidence, (0.5, 0.5, 0.99)).tolist() == [0, 1, 2, 0]
    assert exit_indices(confidence, (math.inf, -math.inf, math.inf)).tolist() == [1, 1, 1, 1]


def test_simulating_gives_accuracy_mean_cost_and_shares_of_those_exits() -> None:
    confidence: Scores = np.array([[0.9, 0.2, 0.2, 0.5], [0.1, 0.8, 0.3, 0.9]], np.float32)
    correct: Flags = np.array([[True, False, False, False], [False, True, False, True]])
    found = simulate(confidence, correct, (0.5, -math.inf), Costs((10.0, 30.0), "MAC"))
    assert found == Outcome(accuracy=0.5, mean_cost=20.0, shares=(0.5, 0.5))


def test_solving_leaves_the_scores_as_they_were() -> None:
    confidence: NDArray[np.float32] = np.random.default_rng(0).random((3, 40)).astype(np.float32)
    before = confidence.copy()
    solve_thresholds(confidence, Costs((1.0, 2.0, 3.0), "MAC"), 2.0)
    assert np.array_equal(confidence, before)
