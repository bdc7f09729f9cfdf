import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.decide.answers import RULES as CATALOG
from offramp.decide.answers import AnswerRule, Memo, ProductOfExperts, RunningEnsemble, ThisExit, answers

RULES = pytest.mark.parametrize("rule", CATALOG.values(), ids=CATALOG.keys())
logits_of_all_exits = st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(2, 6)).flatmap(
    lambda shape: st.lists(
        st.floats(-60, 60, width=32) | st.sampled_from([0.0, 1.0, 1e4]),
        min_size=shape[0] * shape[1] * shape[2],
        max_size=shape[0] * shape[1] * shape[2],
    ).map(lambda values: torch.tensor(values).reshape(shape))
)
LOGITS = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(0)) * 3


def test_this_exit_answers_with_its_own_softmax_and_remembers_nothing() -> None:
    answer, memo = ThisExit().answer(2, LOGITS[2], ())
    assert torch.equal(answer.probabilities, LOGITS[2].softmax(-1))
    assert memo == ()


def test_the_running_ensemble_is_the_mean_probability_of_all_exits_so_far() -> None:
    found = answers(RunningEnsemble(), LOGITS)
    for k, answer in enumerate(found):
        torch.testing.assert_close(answer.probabilities, LOGITS[: k + 1].softmax(-1).mean(0))


def test_the_product_of_experts_is_what_multiplying_probabilities_gives_where_the_exits_agree() -> None:
    agreeing = LOGITS[:1] * torch.tensor([1.0, 1.5, 2.0, 2.5])[:, None, None]
    for k, answer in enumerate(answers(ProductOfExperts(), agreeing)):
        weights = torch.arange(1.0, k + 2) / sum(range(1, k + 2)) * (k + 1) ** 0.5
        product = torch.stack([agreeing[i].softmax(-1) ** weights[i] for i in range(k + 1)]).prod(0)
        torch.testing.assert_close(answer.probabilities, product / product.sum(-1, keepdim=True))


def test_the_product_of_experts_is_as_sure_as_before_where_the_exits_disagree() -> None:
    first, second = answers(ProductOfExperts(), torch.tensor([[[4.0, 0.0, 0.0]], [[0.0, 3.0, 0.0]]]))
    assert [first.label.item(), second.label.item()] == [0, 1]
    assert second.confidence == first.confidence
    assert second.probabilities[0, 0] > second.probabilities[0, 2]
    torch.testing.assert_close(second.probabilities.sum(), torch.tensor(1.0))


@given(logits_of_all_exits)
def test_the_confidence_of_the_product_of_experts_never_falls(logits: torch.Tensor) -> None:
    confidence = torch.stack([answer.confidence for answer in answers(ProductOfExperts(), logits)])
    assert (confidence.diff(dim=0) >= 0).all()
    assert ((confidence > 0) & (confidence <= 1)).all()


@given(logits_of_all_exits)
def test_the_product_of_experts_holds_its_confidence_and_not_its_class(logits: torch.Tensor) -> None:
    weighted = torch.arange(1.0, len(logits) + 1)[:, None, None] * logits.log_softmax(-1)
    for answer, total in zip(answers(ProductOfExperts(), logits), weighted.cumsum(0), strict=True):
        chosen = total.gather(-1, answer.label[:, None])[:, 0]
        torch.testing.assert_close(chosen, total.amax(-1), rtol=1e-4, atol=1e-4)


@RULES
def test_the_softmax_of_an_answers_logits_is_the_answer(rule: AnswerRule) -> None:
    for answer in answers(rule, LOGITS):
        torch.testing.assert_close(answer.logits.softmax(-1), answer.probabilities)


def test_this_exit_keeps_the_logits_as_they_came() -> None:
    answer, _ = ThisExit().answer(2, LOGITS[2], ())
    assert torch.equal(answer.logits, LOGITS[2])


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
