"""More images than fit at once: survivors of several batches wait at a stage until a full batch is there."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from offramp.decide.answers import AnswerRule, Memo, ThisExit
from offramp.decide.policies import ExitPolicy
from offramp.engine.judge import Rows, judge, on_device, take_memo
from offramp.errors import ConfigError
from offramp.runtimes import Runtime

S = TypeVar("S")

WINDOW = 32
"""Batches whose images may have been read and not been answered to the caller, unless told otherwise."""


@torch.inference_mode()
def run_queued(
    runtime: Runtime[S],
    batches: Iterable[Tensor],
    policy: ExitPolicy,
    rule: AnswerRule | None = None,
    *,
    batch_size: int,
    window: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (logits (n, C), exits (n,)) in the order of the images, as soon as all before them are answered.

    The deepest stage with a full batch runs first; the next images are read when no stage has one. So fewer than
    ``batch_size`` images wait at each stage, and at most ``num_exits * batch_size`` are held with their states. When
    ``window`` images are read and not yet yielded, the stage at which the first of them waits runs without being full.

    Args:
        runtime: computes.
        batches: normalised images, each (n, C, H, W); read lazily.
        policy: decides who leaves; at the last exit everybody does.
        rule: what the policy judges; the newest exit alone by default.
        batch_size: images of a full batch.
        window: images read and not yet yielded, at most; 32 batches by default.

    Raises:
        ConfigError: ``window`` is below ``batch_size``.
    """
    window = WINDOW * batch_size if window is None else window
    if window < batch_size:
        raise ConfigError(f"a window of {window} images for batches of {batch_size}: let it hold at least one batch")
    queues = StageQueues(runtime, policy, rule or ThisExit(), batch_size)
    order = _InOrder(window)
    for batch in batches:
        while len(batch):
            images, batch = batch[: queues.room], batch[queues.room :]
            while order.waiting + len(images) > window:
                order.put(*queues.run(queues.blocking(order.first)))
                yield from order.pop()
            queues.add(images, order.take_places(len(images)))
            while (k := queues.deepest_full()) is not None:
                order.put(*queues.run(k))
                yield from order.pop()
    # From the shallowest on, so that whoever stays meets those that wait deeper.
    while (k := queues.next_to_finish()) is not None:
        order.put(*queues.run(k))
        yield from order.pop()


@dataclass
class _Group(Generic[S]):
    """Images that wait for the same stage."""

    state: S
    memo: Memo
    places: Rows
    """Of each image in the order of all, (n,)."""


class StageQueues(Generic[S]):
    """Who waits for which stage.

    Args:
        runtime: computes.
        policy: decides who leaves.
        rule: what it judges.
        batch_size: images a stage runs with at most.
    """

    def __init__(self, runtime: Runtime[S], policy: ExitPolicy, rule: AnswerRule, batch_size: int) -> None:
        self.runtime, self.policy, self.rule = runtime, policy, rule
        self.batch_size = batch_size
        self._queues: list[deque[_Group[S]]] = [deque() for _ in range(runtime.num_exits)]
        self._device = torch.device("cpu")

    def add(self, images: Tensor, places: Rows) -> None:
        """Let normalised images (n, C, H, W) wait for stage 0."""
        self._device = images.device
        self._queues[0].append(_Group(self.runtime.start(images), (), places))

    @property
    def room(self) -> int:
        """How many images make the first stage's batch full."""
        return self.batch_size - self.waiting(0)

    def waiting(self, k: int) -> int:
        """How many images wait for stage k."""
        return sum(len(group.places) for group in self._queues[k])

    def deepest_full(self) -> int | None:
        """The deepest stage a full batch waits for."""
        return max((k for k in range(len(self._queues)) if self.waiting(k) >= self.batch_size), default=None)

    def next_to_finish(self) -> int | None:
        """What to run when nobody comes any more: the deepest full stage, else the shallowest where somebody waits."""
        full = self.deepest_full()
        return full if full is not None else next((k for k, queue in enumerate(self._queues) if queue), None)

    def blocking(self, place: int) -> int:
        """What to run so that the image of this place gets on: the deepest full stage, else the one it waits for."""
        full = self.deepest_full()
        if full is not None:
            return full
        return next(k for k, queue in enumerate(self._queues) if any(place in group.places for group in queue))

    def run(self, k: int) -> tuple[int, Rows, Tensor]:
        """Run stage k for up to a full batch of those who wait: k, the places that leave, and their logits (n, C)."""
        group = self._gather(k)
        state, logits, memo, leaves = judge(self.runtime, k, group.state, group.memo, self.policy, self.rule)
        gone, stays = leaves.nonzero()[0], (~leaves).nonzero()[0]
        if len(stays):
            self._move_on(k + 1, _Group(state, memo, group.places), stays, whole=len(stays) == len(leaves))
        return k, group.places[gone], logits[on_device(gone, self._device)]

    def _gather(self, k: int) -> _Group[S]:
        """Up to a full batch out of the queue. Groups never straddle its end: they were cut when they came."""
        queue, room, groups = self._queues[k], self.batch_size, []
        while queue and room:
            groups.append(queue.popleft())
            room -= len(groups[-1].places)
        if len(groups) == 1:
            return groups[0]
        memo = tuple(torch.cat(parts) for parts in zip(*(group.memo for group in groups), strict=True))
        state = self.runtime.join([group.state for group in groups])
        return _Group(state, memo, np.concatenate([group.places for group in groups]))

    def _move_on(self, k: int, group: _Group[S], stays: Rows, whole: bool) -> None:
        """Let the rows that stay wait for stage k, cut where a batch there is full, which then costs no further copy."""
        if whole and len(stays) == self.batch_size:
            self._queues[k].appendleft(group)
            return
        room = self.batch_size - self.waiting(k)
        if whole and len(stays) <= room:
            self._queues[k].append(group)
            return
        for rows in (stays[:room], stays[room:]):
            if len(rows):
                there = on_device(rows, self._device)
                part = self.runtime.take(group.state, there)
                self._queues[k].append(_Group(part, take_memo(group.memo, there), group.places[rows]))


class _InOrder:
    """A ring of answers that wait for those before them."""

    def __init__(self, window: int) -> None:
        self.first = 0
        """Place of the first image that is not yet yielded."""
        self._next = 0
        self._window = window
        self._logits: Tensor | None = None
        self._exits = np.zeros(window, np.int64)
        self._done = np.zeros(window, np.bool_)

    @property
    def waiting(self) -> int:
        """Images that have a place and are not yet yielded."""
        return self._next - self.first

    def take_places(self, count: int) -> Rows:
        """The next places, (count,)."""
        places = np.arange(self._next, self._next + count)
        self._next += count
        return places

    def put(self, k: int, places: Rows, logits: Tensor) -> None:
        """Keep the logits (n, C) that exit k gave for these places."""
        if self._logits is None:
            self._logits = logits.new_empty(self._window, logits.shape[1])
        slots = places % self._window
        self._logits[on_device(slots, logits.device)] = logits
        self._exits[slots], self._done[slots] = k, True

    def pop(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits (n, C) and exits (n,) of all that wait for nobody any more, if there are any."""
        slots = np.arange(self.first, self._next) % self._window
        done = self._done[slots]
        count = len(done) if done.all() else int(done.argmin())
        if count == 0 or self._logits is None:
            return
        ready = slots[:count]
        self._done[ready] = False
        self.first += count
        yield self._logits[on_device(ready, self._logits.device)], torch.from_numpy(self._exits[ready])
