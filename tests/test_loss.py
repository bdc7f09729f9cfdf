import math

import pytest
import torch

from offramp.errors import ConfigError
from offramp.train.loss import exit_losses, exit_weights


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_losses_are_the_mean_cross_entropies_of_the_exits(smoothing: float) -> None:
    logits, labels = torch.randn(3, 5, 4), torch.tensor([0, 3, 1, 1, 2])
    expected = []
    for exit_logits in logits.tolist():
        total = 0.0
        for row, label in zip(exit_logits, labels.tolist(), strict=True):
            log_norm = math.log(sum(math.exp(value) for value in row))
            for klass, value in enumerate(row):
                target = smoothing / 4 + (1 - smoothing) * (klass == label)
                total -= target * (value - log_norm)
        expected.append(total / 5)
    assert exit_losses(logits, labels, smoothing).tolist() == pytest.approx(expected, rel=1e-5)


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
    assert exit_weights((), 3).tolist() == [1, 1, 1]
    assert exit_weights((0.5, 0.0, 2.0), 3).tolist() == [0.5, 0, 2]


def test_another_number_of_weights_than_exits_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss_weights=\(1\.0, 2\.0\): this network has 3 exits; give as many"):
        exit_weights((1.0, 2.0), 3)
