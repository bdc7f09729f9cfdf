import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.decide.answers import AnswerRule, Memo, RunningEnsemble, ThisExit, answers

RULES = pytest.mark.parametrize("rule", [ThisExit(), RunningEnsemble()], ids=lambda rule: type(rule).__name__)
LOGITS = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(0)) * 3


def test_this_exit_answers_with_its_own_softmax_and_remembers_nothing() -> None:
    answer, memo = ThisExit().answer(2, LOGITS[2], ())
    assert torch.equal(answer.probabilities, LOGITS[2].softmax(-1))
    assert memo == ()


def test_the_running_ensemble_is_the_mean_probability_of_all_exits_so_far() -> None:
    found = answers(RunningEnsemble(), LOGITS)
    for k, answer in enumerate(found):
        torch.testing.assert_close(answer.probabilities, LOGITS[: k + 1].softmax(-1).mean(0))


@RULES
def test_probabilities_sum_to_one_and_the_label_is_the_surest_class(rule: AnswerRule) -> None:
    for answer in answers(rule, LOGITS):
        torch.testing.assert_close(answer.probabilities.sum(-1), torch.ones(9))
        chosen = answer.probabilities.gather(1, answer.label[:, None])[:, 0]
        assert torch.equal(chosen, answer.confidence)
        assert torch.equal(chosen, answer.probabilities.max(-1).values)


@RULES
def test_logits_of_half_precision_are_judged_in_full(rule: AnswerRule) -> None:
    for answer in answers(rule, LOGITS.bfloat16()):
        assert answer.confidence.dtype == torch.float32


@RULES
@given(rows=st.lists(st.integers(0, 8), unique=True), left_after=st.integers(0, 2))
def test_who_stays_gets_the_same_answers_as_if_nobody_had_left(
    rule: AnswerRule, rows: list[int], left_after: int
) -> None:
    everybody = answers(rule, LOGITS)
    memo: Memo = ()
    stay = torch.tensor(rows, dtype=torch.int64)
    for k, logits in enumerate(LOGITS):
        one = logits if k <= left_after else logits[stay]
        answer, memo = rule.answer(k, one, memo)
        if k == left_after:
            memo = tuple(part[stay] for part in memo)
        if k > left_after:
            torch.testing.assert_close(answer.probabilities, everybody[k].probabilities[stay])
