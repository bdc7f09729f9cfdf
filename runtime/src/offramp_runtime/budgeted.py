"""Budgeted batches on arrays: who is done leaves the batch, the rest go on without them."""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from offramp_runtime.policies import Threshold
from offramp_runtime.predictions import softmax
from offramp_runtime.stages import Stages

S = TypeVar("S")


@dataclass(frozen=True)
class _Answer:
    logits: NDArray[np.float32]

    @property
    def confidence(self) -> NDArray[np.float32]:
        """The largest probability, (N,)."""
        largest: NDArray[np.float32] = softmax(self.logits).max(axis=-1)
        return largest


def run_budgeted(
    stages: Stages[S], images: NDArray[np.float32], policy: Threshold
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits (N, C) of the exit each sample left at, and that exit (N,), in the order of the images.

    Args:
        stages: of a network.
        images: normalised, (N, C, H, W), at least one.
        policy: decides who leaves; at the last exit everybody does.
    """
    last = stages.num_exits - 1
    state: Any = stages.start(images)
    inside = np.arange(len(images))
    exits = np.full(len(images), last)
    answered: NDArray[np.float32] | None = None
    for k in range(stages.num_exits):
        state, logits = stages.step(k, state)
        if answered is None:
            answered = np.empty((len(images), logits.shape[1]), np.float32)
        leaves = np.ones(len(inside), bool) if k == last else np.asarray(policy.stop(k, _Answer(logits), ()))
        answered[inside[leaves]] = logits[leaves]
        exits[inside[leaves]] = k
        if leaves.all():
            break
        if leaves.any():
            rest = np.flatnonzero(~leaves)
            state, inside = stages.take(state, rest), inside[rest]
    assert answered is not None  # every network has an exit
    return answered, exits
