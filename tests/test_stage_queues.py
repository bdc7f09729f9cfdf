import weakref
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offramp.decide.answers import RunningEnsemble
from offramp.decide.policies import ExitPolicy
from offramp.engine.budgeted import run_budgeted
from offramp.engine.stage_queues import run_queued
from offramp.errors import ConfigError
from offramp_runtime.policies import Threshold
from scripted import Numbered, Script, pieces, samples, write_script
from tiny import Clockwork, make_net

NET = make_net()


class Watched(Clockwork):
    """Keeps what every step runs with, and how many samples are held in states at that time."""

    def __init__(self, num_exits: int) -> None:
        super().__init__([1.0] * num_exits)
        self.steps: list[tuple[int, int]] = []
        self.most_held = 0
        self._held: dict[int, int] = {}

    def start(self, images: Tensor) -> Tensor:
        return self._hold(images.clone())

    def step(self, k: int, state: Tensor) -> tuple[Tensor, Tensor]:
        self.steps.append((k, len(state)))
        self.most_held = max(self.most_held, sum(self._held.values()))
        state, logits = super().step(k, state)
        return self._hold(state.clone()), logits

    def take(self, state: Tensor, rows: Tensor) -> Tensor:
        return self._hold(super().take(state, rows))

    def join(self, states: Sequence[Tensor]) -> Tensor:
        return self._hold(super().join(states))

    def _hold(self, state: Tensor) -> Tensor:
        key = id(state)
        self._held[key] = len(state)
        weakref.finalize(state, self._held.pop, key)
        return state


def answers(
    runtime: Watched, script: Script, given: Sequence[int], batch_size: int, **options: int | tuple[int, ...] | None
) -> list[tuple[Tensor, Tensor]]:
    count = script.leaves.shape[1]
    return list(
        run_queued(runtime, pieces(samples(count), *given), script, Numbered(), batch_size=batch_size, **options)  # type: ignore[arg-type]
    )


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_exits=st.integers(1, 5),
    count=st.integers(0, 60),
    often=st.floats(0, 1),
    given_sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    batch_size=st.integers(1, 9),
    windows=st.integers(1, 6),
)
def test_answers_come_in_the_order_of_the_images_whatever_waits_for_whom(
    seed: int, num_exits: int, count: int, often: float, given_sizes: list[int], batch_size: int, windows: int,
) -> None:  # fmt: skip
    script, runtime = write_script(seed, num_exits, count, often), Watched(num_exits)
    found = answers(runtime, script, given_sizes, batch_size, window=windows * batch_size)
    logits = torch.cat([torch.zeros(0, 2), *(part for part, _ in found)])
    assert logits[:, 0].tolist() == list(range(count))
    assert logits[:, 1].tolist() == script.exits.tolist()
    assert [k for _, exits in found for k in exits.tolist()] == script.exits.tolist()
    assert all(size <= batch_size for _, size in runtime.steps)
    assert runtime.most_held <= (num_exits + 2) * batch_size


@given(seed=st.integers(0, 2**32 - 1), often=st.floats(0, 0.8))
def test_every_stage_runs_full_batches_until_nobody_comes_any_more(seed: int, often: float) -> None:
    script, runtime = write_script(seed, 4, 200, often), Watched(4)
    answers(runtime, script, [8], 8, window=200)
    for k in range(4):
        sizes = [size for stage, size in runtime.steps if stage == k]
        inside = int((script.exits >= k).sum())
        assert sizes == [8] * (inside // 8) + [inside % 8] * (inside % 8 > 0)


def test_images_are_read_when_no_stage_has_a_full_batch_and_answered_as_soon_as_it_is_their_turn() -> None:
    read: list[int] = []

    def batches() -> Iterator[Tensor]:
        for first in range(0, 16, 4):
            read.append(first)
            yield torch.arange(float(first), first + 4)

    leaves = torch.zeros(2, 16, dtype=torch.bool)
    leaves[0, :4] = True
    found = run_queued(Clockwork([1.0] * 3), batches(), Script(leaves), Numbered(), batch_size=4)
    next(found)
    assert read == [0]
    next(found)
    assert read == [0, 4]


def test_an_image_that_blocks_the_order_is_run_before_the_window_overflows() -> None:
    leaves = torch.ones(3, 40, dtype=torch.bool)
    leaves[:, 0] = False  # the first goes to the end, all others leave at once
    read = 0

    def batches() -> Iterator[Tensor]:
        nonlocal read
        for first in range(0, 40, 4):
            read += 4
            yield torch.arange(float(first), first + 4)

    runtime = Watched(4)
    found = run_queued(runtime, batches(), Script(leaves), Numbered(), batch_size=4, window=12)
    first, _ = next(found)
    assert read == 16  # the fourth batch had been read and not yet been let in
    assert len(first) == 12
    assert runtime.steps == [(0, 4)] * 3 + [(1, 1), (2, 1), (3, 1)]


def test_with_one_batch_every_stage_runs_once() -> None:
    script, runtime = write_script(0, 4, 6, 0.4), Watched(4)
    answers(runtime, script, [6], 8)
    assert [k for k, _ in runtime.steps] == list(range(max(script.exits) + 1))


@pytest.mark.parametrize("policy", [Threshold((0.5, 0.5, 0)), Threshold((0.7, 2, 0)), Threshold((2, 2, 0))])
@torch.inference_mode()
def test_a_network_answers_as_it_does_batch_by_batch(policy: ExitPolicy) -> None:
    images = torch.randn(50, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    images = images.contiguous(memory_format=torch.channels_last)
    expected, expected_exits = run_budgeted(NET, images, policy, RunningEnsemble())
    found = list(run_queued(NET, pieces(images, 11), policy, RunningEnsemble(), batch_size=8))
    logits, exits = (torch.cat(parts) for parts in zip(*found, strict=True))
    assert torch.equal(exits, expected_exits)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@torch.inference_mode()
def test_taking_and_joining_a_networks_states_undo_each_other_and_keep_their_layout() -> None:
    images = torch.randn(5, 1, 16, 16).contiguous(memory_format=torch.channels_last)
    state, _ = NET.step(0, NET.start(images))
    again = NET.join([NET.take(state, torch.tensor(rows)) for rows in ([0, 1], [2], [3, 4])])
    for part, other in zip(state, again, strict=True):
        assert (part is None) == (other is None)
        if part is not None and other is not None:
            assert torch.equal(part, other)
            assert part.stride() == other.stride()


def test_a_window_below_one_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="a window of 3 images for batches of 4: let it hold at least one batch"):
        next(run_queued(NET, [], Threshold(()), batch_size=4, window=3))
