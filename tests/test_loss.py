import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from offramp.errors import ConfigError
from offramp.train.loss import budget_weights, exit_losses, exit_weights
from offramp.train.recipe import LossBudgets
from tiny import RECIPE

COSTS = (3.0, 4.0, 6.0, 10.0)
DISTRIBUTIONS: tuple[LossBudgets, ...] = ("uniform", "normal", "exponential")


def plain_losses(logits: Tensor, targets: Tensor) -> list[float]:
    """Mean cross-entropy of each exit with class probabilities (N, C), number by number."""
    found = []
    for exit_logits in logits.tolist():
        total = 0.0
        for row, wanted in zip(exit_logits, targets.tolist(), strict=True):
            log_norm = math.log(sum(math.exp(value) for value in row))
            total -= sum(share * (value - log_norm) for share, value in zip(wanted, row, strict=True))
        found.append(total / len(targets))
    return found


def smoothed(targets: Tensor, smoothing: float) -> Tensor:
    return (1 - smoothing) * targets + smoothing / targets.shape[1]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_losses_are_the_mean_cross_entropies_of_the_exits(smoothing: float) -> None:
    logits, labels = torch.randn(3, 5, 4), torch.tensor([0, 3, 1, 1, 2])
    expected = plain_losses(logits, smoothed(torch.eye(4)[labels], smoothing))
    assert exit_losses(logits, labels, smoothing).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_may_be_class_probabilities(smoothing: float) -> None:
    logits, probabilities = torch.randn(3, 5, 4), torch.rand(5, 4).softmax(1)
    expected = plain_losses(logits, smoothed(probabilities, smoothing))
    assert exit_losses(logits, probabilities, smoothing).tolist() == pytest.approx(expected, rel=1e-5)
    labels = torch.tensor([0, 3, 1, 1, 2])
    torch.testing.assert_close(
        exit_losses(logits, torch.eye(4)[labels], smoothing), exit_losses(logits, labels, smoothing)
    )


def test_they_are_computed_in_full_precision_whatever_the_logits_are() -> None:
    logits = torch.randn(2, 3, 4).bfloat16()
    losses = exit_losses(logits, torch.tensor([0, 1, 2]))
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, exit_losses(logits.float(), torch.tensor([0, 1, 2])))


def test_equal_logits_cost_the_logarithm_of_the_classes() -> None:
    losses = exit_losses(torch.zeros(2, 6, 10), torch.arange(6))
    assert losses.tolist() == pytest.approx([math.log(10)] * 2)


def test_the_gradient_reaches_every_exit() -> None:
    logits = torch.zeros(3, 2, 4, requires_grad=True)
    torch.autograd.backward(exit_losses(logits, torch.tensor([0, 1])).sum())
    assert logits.grad is not None
    assert (logits.grad.abs().sum((1, 2)) > 0).all()


def test_exits_weigh_the_same_unless_weights_are_given() -> None:
    assert exit_weights(RECIPE, COSTS).tolist() == [1, 1, 1, 1]
    assert exit_weights(replace(RECIPE, loss_weights=(0.5, 0.0, 2.0)), COSTS[:3]).tolist() == [0.5, 0, 2]


def test_another_number_of_weights_than_exits_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss_weights=\(1\.0, 2\.0\): this network has 3 exits; give as many"):
        exit_weights(replace(RECIPE, loss_weights=(1.0, 2.0)), COSTS[:3])


def test_the_whole_loss_is_the_weighted_sum_of_the_exits() -> None:
    logits, labels = torch.randn(4, 6, 5), torch.arange(6) % 5
    for recipe in (replace(RECIPE, loss_weights=(0.5, 0.0, 2.0, 1.0)), replace(RECIPE, loss_budgets="normal")):
        weights = exit_weights(recipe, COSTS)
        expected = 0.0
        for weight, loss in zip(weights.tolist(), plain_losses(logits, torch.eye(5)[labels]), strict=True):
            expected += weight * loss
        assert (exit_losses(logits, labels) * weights).sum().item() == pytest.approx(expected, rel=1e-5)


def scaled(shares: Sequence[float]) -> list[float]:
    """To a mean of 1."""
    return [len(shares) * share / sum(shares) for share in shares]


def test_uniform_budgets_weigh_exits_by_what_the_next_one_costs_more() -> None:
    # 10 MAC are followed by a stage as dear as the last, up to 14.
    assert budget_weights("uniform", COSTS) == pytest.approx(scaled([1, 2, 4, 4]))


def test_exponential_budgets_end_with_the_survival_at_each_cost() -> None:
    survival = [math.exp(-cost / 5) for cost in COSTS]  # a mean of half the last cost
    shares = [before - after for before, after in pairwise([*survival, 0.0])]
    assert budget_weights("exponential", COSTS) == pytest.approx(scaled(shares))


def test_normal_budgets_lie_around_the_middle_of_the_costs() -> None:
    middle, deviation = 6.5, 7 / 4
    below = [0.5 * (1 + math.erf((cost - middle) / deviation / math.sqrt(2))) for cost in COSTS]
    shares = [after - before for before, after in pairwise([*below, 1.0])]
    assert budget_weights("normal", COSTS) == pytest.approx(scaled(shares))


@pytest.mark.parametrize("exits", [2, 3, 10])
def test_uniform_budgets_over_equally_spaced_exits_weigh_them_equally(exits: int) -> None:
    costs = [7 + 2.5 * k for k in range(exits)]
    assert budget_weights("uniform", costs) == pytest.approx([1] * exits)


@given(steps=st.lists(st.floats(0.01, 10), min_size=2, max_size=10), unit=st.floats(1e-3, 1e9))
@pytest.mark.parametrize("budgets", DISTRIBUTIONS)
def test_weights_of_budgets_are_positive_have_a_mean_of_1_and_do_not_depend_on_the_unit(
    budgets: LossBudgets, steps: list[float], unit: float
) -> None:
    costs = [sum(steps[: k + 1]) for k in range(len(steps))]
    weights = budget_weights(budgets, costs)
    assert len(weights) == len(costs)
    assert sum(weights) / len(weights) == pytest.approx(1)
    assert all(weight >= 0 for weight in weights)
    assert budget_weights(budgets, [unit * cost for cost in costs]) == pytest.approx(weights, abs=1e-9)


@pytest.mark.parametrize("budgets", ["equal", *DISTRIBUTIONS])
def test_a_single_exit_has_all_the_weight(budgets: LossBudgets) -> None:
    assert budget_weights(budgets, [5.0]) == (1.0,)
