import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.decide.accuracy import ExitAccuracy, exit_accuracy


def test_accuracy_of_a_case_small_enough_to_check_by_hand() -> None:
    sure, unsure = 4.0, 0.5
    logits = torch.zeros(2, 4, 6)
    logits[0, [0, 1, 2, 3], [0, 1, 2, 0]] = sure  # exit 0 is right about the first three
    logits[1, [0, 1, 2, 3], [1, 1, 2, 3]] = torch.tensor([unsure, sure, sure, 9.0])  # exit 1 about the last three
    found = exit_accuracy(logits, np.array([0, 1, 2, 3]))
    assert found.top1 == (0.75, 0.75)
    assert found.ensemble_top1 == (0.75, 1.0)  # together they know all four


@given(st.integers(0, 2**32 - 1), st.integers(2, 8))
def test_the_label_counts_where_fewer_than_so_many_classes_are_more_probable(seed: int, classes: int) -> None:
    draw = np.random.default_rng(seed)
    logits, labels = draw.standard_normal((3, 20, classes)).astype(np.float32), draw.integers(0, classes, 20)
    found = exit_accuracy(torch.from_numpy(logits), labels)
    surer = (logits > np.take_along_axis(logits, np.broadcast_to(labels[:, None], (3, 20, 1)), -1)).sum(-1)
    assert found.top1 == pytest.approx(tuple((surer < 1).mean(1)))
    assert found.top5 == pytest.approx(tuple((surer < 5).mean(1)))


def test_among_five_classes_or_fewer_the_label_is_always_in_the_top_five() -> None:
    found = exit_accuracy(torch.randn(2, 10, 3), np.zeros(10, np.int64))
    assert found.top5 == found.ensemble_top5 == (1.0, 1.0)


def test_the_ensemble_of_one_exit_is_that_exit() -> None:
    found: ExitAccuracy = exit_accuracy(torch.randn(3, 50, 8), np.arange(50) % 8)
    assert found.ensemble_top1[0] == found.top1[0]
    assert found.ensemble_top5[0] == found.top5[0]
