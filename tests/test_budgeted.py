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
from offramp.decide.policies import ExitPolicy
from offramp.engine.budgeted import run_budgeted
from offramp.engine.collect import scores
from offramp.measure.macs import staged_macs
from offramp_runtime.budget import Scores, solve_thresholds
from offramp_runtime.policies import Threshold
from scripted import Numbered, Script, samples, write_script
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


class Sized(Clockwork):
    """Keeps the batch size of every step."""

    def __init__(self, num_exits: int) -> None:
        super().__init__([1.0] * num_exits)
        self.sizes: list[int] = []

    def step(self, k: int, state: Tensor) -> tuple[Tensor, Tensor]:
        self.sizes.append(len(state))
        return super().step(k, state)


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32 - 1), num_exits=st.integers(1, 5), count=st.integers(0, 12), often=st.floats(0, 1))
def test_whoever_leaves_wherever_answers_stay_with_their_images(
    seed: int, num_exits: int, count: int, often: float
) -> None:
    script, runtime = write_script(seed, num_exits, count, often), Clockwork([1.0] * num_exits)
    logits, exits = run_budgeted(runtime, samples(count), script, Numbered())
    assert exits.tolist() == script.exits.tolist()
    assert logits[:, 0].tolist() == list(range(count))
    assert logits[:, 1].tolist() == script.exits.tolist()
    assert runtime.ran == list(range(max(script.exits, default=0) + 1))


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_exits=st.integers(1, 5),
    count=st.integers(0, 12),
    often=st.floats(0, 1),
    decisions=st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_whatever_is_decided_about_regrouping_the_answers_are_the_same(
    seed: int, num_exits: int, count: int, often: float, decisions: list[bool]
) -> None:
    script, runtime = write_script(seed, num_exits, count, often), Sized(num_exits)
    asked: list[tuple[int, int, int]] = []

    def regroup(k: int, left: int, size: int) -> bool:
        asked.append((k, left, size))
        return decisions[k]

    logits, exits = run_budgeted(runtime, samples(count), script, Numbered(), regroup=regroup)
    assert exits.tolist() == script.exits.tolist()
    assert logits[:, 0].tolist() == list(range(count))
    assert logits[:, 1].tolist() == script.exits.tolist()
    for k, left, size in asked:
        assert left < size == runtime.sizes[k - 1]
        assert runtime.sizes[k] == (left if decisions[k] else size)


def test_a_batch_that_is_never_regrouped_goes_through_whole_until_nobody_is_left() -> None:
    script, runtime = Script(torch.tensor([[True, False, False], [True, True, True], [True, True, True]])), Sized(4)
    run_budgeted(runtime, samples(3), script, Numbered(), regroup=lambda k, count, size: False)
    assert runtime.sizes == [3, 3]


def test_the_host_looks_at_the_device_once_per_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    def watch(name: str) -> None:
        original = getattr(Tensor, name)

        def look(*given: Any) -> Any:
            looks.append(name)
            return original(*given)

        monkeypatch.setattr(Tensor, name, look)

    for name in ("cpu", "nonzero", "item", "tolist", "__bool__", "__index__"):
        watch(name)
    images, policy = random_images(16, 3), solved(ThisExit(), 0.5).policy
    looks.clear()
    run_budgeted(NET, images, policy)
    assert looks == ["cpu"] * (NET.num_exits - 1)


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


def test_no_images_have_no_answers() -> None:
    logits, exits = run_budgeted(NET, random_images(0, 3), AtExit(1))
    assert logits.shape == (0, 4)
    assert exits.shape == (0,)


def test_no_gradients_are_kept() -> None:
    logits, _ = run_budgeted(NET, random_images(2, 3), AtExit(0))
    assert not logits.requires_grad
