import numpy as np
import pytest
import torch

from offramp.decide.answers import AnswerRule, RunningEnsemble, ThisExit, answers
from offramp.engine.collect import collect, scores
from tiny import PREPROCESSING, images, make_net, unlabelled

CPU = torch.device("cpu")
NET = make_net()
PIXELS = images(11)
SAMPLES = unlabelled(PIXELS)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
def test_logits_of_all_exits_come_in_the_order_of_the_images(batch_size: int) -> None:
    found = collect(NET, SAMPLES.batches(batch_size), PREPROCESSING, device=CPU)
    expected = NET(PREPROCESSING.normalize(torch.from_numpy(PIXELS))).detach()
    assert found.shape == (3, 11, 4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_nothing_of_it_needs_gradients() -> None:
    assert not collect(NET, [PIXELS], PREPROCESSING, device=CPU).requires_grad


def test_progress_is_told_after_each_batch() -> None:
    done: list[int] = []
    collect(NET, SAMPLES.batches(4), PREPROCESSING, device=CPU, report=done.append)
    assert done == [4, 8, 11]


@pytest.mark.parametrize("rule", [ThisExit(), RunningEnsemble()], ids=lambda rule: type(rule).__name__)
def test_scores_are_the_confidence_and_correctness_of_the_rules_answers(rule: AnswerRule) -> None:
    logits, labels = torch.randn(3, 20, 4), np.arange(20) % 4
    confidence, correct = scores(rule, logits, labels)
    assert confidence.dtype == np.float32
    assert correct.dtype == np.bool_
    for k, answer in enumerate(answers(rule, logits)):
        assert np.array_equal(confidence[k], answer.confidence.numpy())
        assert np.array_equal(correct[k], answer.label.numpy() == labels)
