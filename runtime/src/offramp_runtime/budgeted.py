"""Budgeted batches on arrays: who is done leaves the batch, the rest go on without them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from offramp_runtime.policies import Threshold
from offramp_runtime.predictions import softmax
from offramp_runtime.stages import Stages

S = TypeVar("S")
Regroup: TypeAlias = Callable[[int, int, int], bool]
"""(k, n, size): whether to take n rows out of a batch of ``size`` before stage k, or to carry all of them on."""


def always(k: int, count: int, size: int) -> bool:
    """Regroup wherever somebody has left."""
    del k, count, size
    return True


@dataclass(frozen=True)
class _Answer:
    logits: NDArray[np.float32]

    @property
    def confidence(self) -> NDArray[np.float32]:
        """The largest probability, (N,)."""
        largest: NDArray[np.float32] = softmax(self.logits).max(axis=-1)
        return largest


def run_budgeted(
    stages: Stages[S], images: NDArray[np.float32], policy: Threshold, regroup: Regroup = always
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits (N, C) of the exit each sample left at, and that exit (N,), in the order of the images.

    Args:
        stages: of a network.
        images: normalised, (N, C, H, W), at least one.
        policy: decides who leaves; at the last exit everybody does.
        regroup: asked where the batch could shrink; where it does not, those who have left are computed and not read.
            :meth:`offramp_runtime.stage_table.StageTable.pays` knows when it pays.
    """
    last = stages.num_exits - 1
    state: Any = stages.start(images)
    # Of those still inside: which image each is, and which row of the batch.
    places = rows = np.arange(len(images))
    exits = np.full(len(images), last)
    answered: NDArray[np.float32] | None = None
    size = len(images)
    for k in range(stages.num_exits):
        state, logits = stages.step(k, state)
        if answered is None:
            answered = np.empty((len(images), logits.shape[1]), np.float32)
        logits = logits[rows]
        leaves = np.ones(len(rows), bool) if k == last else np.asarray(policy.stop(k, _Answer(logits), ()))
        answered[places[leaves]] = logits[leaves]
        exits[places[leaves]] = k
        places, rows = places[~leaves], rows[~leaves]
        if not len(rows):
            break
        if len(rows) < size and regroup(k + 1, len(rows), size):
            state, size = stages.take(state, rows), len(rows)
            rows = np.arange(size)
    assert answered is not None  # every network has an exit
    return answered, exits
