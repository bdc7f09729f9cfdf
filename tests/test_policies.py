import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.decide.answers import Answer
from offramp_runtime.policies import Threshold

ANSWER = Answer(torch.tensor([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]]))


def test_those_who_reach_the_threshold_leave_and_a_tie_counts_as_reached() -> None:
    assert Threshold((0.75, 0.0)).stop(0, ANSWER, ()).tolist() == [False, True, True]


def test_each_exit_has_a_threshold_of_its_own() -> None:
    policy = Threshold((1.0, 0.5, 0.0))
    assert policy.stop(0, ANSWER, ()).tolist() == [False, False, True]
    assert policy.stop(1, ANSWER, ()).tolist() == [True, True, True]


def test_infinite_thresholds_let_nobody_or_everybody_leave() -> None:
    policy = Threshold((math.inf, -math.inf, 0.0))
    assert not policy.stop(0, ANSWER, ()).any()
    assert policy.stop(1, ANSWER, ()).all()


@given(st.floats(0, 1, width=32))
def test_a_threshold_kept_as_a_python_number_still_equals_the_confidence_it_was_taken_from(confidence: float) -> None:
    value = float(np.float32(confidence))
    answer = Answer(torch.tensor([[value]]))
    assert Threshold((value,)).stop(0, answer, ()).all()
    above = float(np.nextafter(np.float32(value), np.float32(2)))
    assert not Threshold((above,)).stop(0, answer, ()).any()
