from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from offramp.decide.answers import Answer, AnswerRule, Memo, RunningEnsemble, ThisExit
from offramp.decide.budget import Scores, solve_thresholds
from offramp.decide.policies import ExitPolicy, Threshold
from offramp.engine.budgeted import run_budgeted
from offramp.engine.collect import scores
from offramp.measure.macs import staged_macs
from tiny import Clockwork, make_net

NET = make_net()
COSTS = staged_macs(NET)
NEVER, ALWAYS = float("inf"), -float("inf")


def random_images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


# ---- policies and rules of which the engine knows nothing


@dataclass(frozen=True)
class AtExit:
    """Everybody leaves at one exit."""

    exit: int

    def stop(self, k: int, answer: Answer, memo: Memo) -> Tensor:
        del memo
        return torch.full(answer.label.shape, k == self.exit)


@dataclass(frozen=True)
class Streak:
    """Remembers the last label, and for how many exits it has been the same."""

    def answer(self, k: int, logits: Tensor, memo: Memo) -> tuple[Answer, Memo]:
        del k
        answer = Answer(logits.softmax(-1))
        same = memo[0] == answer.label if memo else torch.zeros_like(answer.label, dtype=torch.bool)
        return answer, (answer.label, torch.where(same, memo[1] + 1, 1) if memo else torch.ones_like(answer.label))


@dataclass(frozen=True)
class Patience:
    """Leave once the label has been the same so often (as BERxiT and PABEE do)."""

    times: int

    def stop(self, k: int, answer: Answer, memo: Memo) -> Tensor:
        del k, answer
        return memo[1] >= self.times


@dataclass(frozen=True)
class Case:
    rule: AnswerRule
    policy: ExitPolicy

    @property
    def thresholds(self) -> tuple[float, ...]:
        return self.policy.thresholds if isinstance(self.policy, Threshold) else (NEVER,) * 3


@cache
@torch.inference_mode()
def other_scores(rule: ThisExit | RunningEnsemble) -> Scores:
    return scores(rule, NET(random_images(200, 1)), np.zeros(200, np.int64))[0]


def solved(rule: ThisExit | RunningEnsemble, place: float) -> Case:
    """Thresholds for a budget between the first and the last exit's cost, solved on other images."""
    confidence = other_scores(rule)
    budget = COSTS.at_exit[0] + place * (COSTS.at_exit[-1] - COSTS.at_exit[0])
    return Case(rule, Threshold(solve_thresholds(confidence, COSTS, budget)))


KINDS: dict[str, Callable[[float], Case]] = {
    "a solved budget": lambda place: solved(ThisExit(), place),
    "a budget over the running ensemble": lambda place: solved(RunningEnsemble(), place),
    "a fixed exit": lambda place: Case(ThisExit(), AtExit(round(2 * place))),
    "patience": lambda place: Case(Streak(), Patience(1 + round(2 * place))),
    "all leave at exit 0": lambda place: Case(ThisExit(), Threshold((ALWAYS, NEVER, ALWAYS))),
    "nobody leaves early": lambda place: Case(RunningEnsemble(), Threshold((NEVER, NEVER, NEVER))),
}


@torch.inference_mode()
def choose_afterwards(images: Tensor, case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Run everything, then choose: logits (N, C), exits (N,), and whose decision hung on the last digits (N,)."""
    logits = torch.stack(list(NET.walk(images)))
    everybody = torch.arange(len(images))
    exits = torch.full((len(images),), NET.num_exits - 1)
    inside, close = torch.ones(len(images), dtype=torch.bool), torch.zeros(len(images), dtype=torch.bool)
    memo: Memo = ()
    for k in range(NET.num_exits - 1):
        answer, memo = case.rule.answer(k, logits[k], memo)
        first, second = answer.probabilities.topk(2).values.unbind(-1)
        close |= ((first - case.thresholds[k]).abs() < 1e-6) | (first - second < 1e-6)
        leaves = inside & case.policy.stop(k, answer, memo)
        exits[leaves] = k
        inside &= ~leaves
    return logits[exits, everybody], exits, close


@pytest.mark.parametrize("count", [1, 2, 7, 64])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6)
@given(place=st.floats(0, 1), seed=st.integers(2, 2**31))
@example(place=0.5, seed=2)
def test_really_leaving_gives_what_running_everything_and_choosing_afterwards_gives(
    kind: str, count: int, place: float, seed: int
) -> None:
    case, images = KINDS[kind](place), random_images(count, seed)
    logits, exits = run_budgeted(NET, images, case.policy, case.rule)
    expected, expected_exits, close = choose_afterwards(images, case)
    assert torch.equal(exits[~close], expected_exits[~close])
    same = exits == expected_exits
    torch.testing.assert_close(logits[same], expected[same], rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_the_images_of_these_tests_leave_at_every_exit() -> None:
    _, exits = run_budgeted(NET, random_images(64, 2), solved(ThisExit(), 0.5).policy)
    assert set(exits.tolist()) == {0, 1, 2}


# ---- who is where, checked on a runtime whose samples are numbers


@dataclass(frozen=True)
class Numbered:
    """Remembers which samples it was asked about and how often, and notices when memo and batch have come apart."""

    def answer(self, k: int, logits: Tensor, memo: Memo) -> tuple[Answer, Memo]:
        numbers = logits[:, 0]
        times = torch.zeros_like(numbers)
        if memo:
            assert torch.equal(memo[0], numbers)
            times = memo[1] + 1
        assert (times == k).all()
        return Answer(logits), (numbers, times)


@dataclass(frozen=True)
class Script:
    """Sample n leaves at exit k where ``leaves[k][n]``; there is no row for the last exit."""

    leaves: Tensor

    def stop(self, k: int, answer: Answer, memo: Memo) -> Tensor:
        del answer
        return self.leaves[k, memo[0].long()]


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32 - 1), num_exits=st.integers(1, 5), count=st.integers(0, 12), often=st.floats(0, 1))
def test_whoever_leaves_wherever_answers_stay_with_their_images(
    seed: int, num_exits: int, count: int, often: float
) -> None:
    leaves = np.random.default_rng(seed).random((num_exits - 1, count)) < often
    runtime = Clockwork([1.0] * num_exits)
    logits, exits = run_budgeted(
        runtime, torch.arange(count, dtype=torch.float32), Script(torch.from_numpy(leaves)), Numbered()
    )
    decided = np.vstack([leaves, np.ones((1, count), bool)]).argmax(0)
    assert exits.tolist() == decided.tolist()
    assert logits[:, 0].tolist() == list(range(count))
    assert logits[:, 1].tolist() == decided.tolist()
    assert runtime.ran == list(range(max(decided, default=0) + 1))


@given(order=st.permutations(range(12)))
def test_shuffled_images_get_shuffled_answers(order: list[int]) -> None:
    images, policy = random_images(12, 5), solved(ThisExit(), 0.4).policy
    logits, exits = run_budgeted(NET, images, policy)
    shuffled_logits, shuffled_exits = run_budgeted(NET, images[order], policy)
    assert torch.equal(shuffled_exits, exits[order])
    torch.testing.assert_close(shuffled_logits, logits[order], rtol=0, atol=1e-5 * float(logits.abs().max()))


# ---- leaving saves work


@contextmanager
def seen_batches() -> Iterator[list[set[int]]]:
    """The batch sizes that reach the layers of each stage."""
    sizes: list[set[int]] = [set() for _ in NET.stages]

    def watch(k: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, inputs: sizes[k].add(len(inputs[0]))

    hooks = [
        layer.register_forward_pre_hook(watch(k))
        for k, stage in enumerate(NET.stages)
        for layer in stage.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    try:
        yield sizes
    finally:
        for hook in hooks:
            hook.remove()


@given(place=st.floats(0, 1))
def test_every_stage_computes_only_those_still_inside(place: float) -> None:
    with seen_batches() as sizes:
        _, exits = run_budgeted(NET, random_images(40, 3), solved(ThisExit(), place).policy)
    inside = [int((exits >= k).sum()) for k in range(3)]
    assert sizes == [{count} if count else set() for count in inside]


def test_when_everybody_has_left_no_further_stage_runs() -> None:
    with seen_batches() as sizes:
        run_budgeted(NET, random_images(5, 3), AtExit(1))
    assert sizes == [{5}, {5}, set()]


def test_no_gradients_are_kept() -> None:
    logits, _ = run_budgeted(NET, random_images(2, 3), AtExit(0))
    assert not logits.requires_grad
