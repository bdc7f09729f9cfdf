"""States of stages that compute with arrays in pooled memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp_runtime.pool import Lent, Pool, Tensors


@dataclass(frozen=True, eq=False)
class TensorState:
    """The tensors later stages read, by name; batch-first."""

    samples: int
    tensors: Tensors


def own(images: NDArray[np.float32], pool: Pool) -> Lent:
    """A copy, since whoever gave the images may change them before they are read."""
    lent = pool.lend(images.shape, "<f4")
    np.copyto(lent.array, images)
    return lent


def take(state: TensorState, rows: NDArray[np.int64], pool: Pool) -> TensorState:
    """The state of the samples ``rows`` (M,), in that order."""
    taken = {}
    for name, lent in state.tensors.items():
        taken[name] = pool.lend((len(rows), *lent.array.shape[1:]), lent.array.dtype.str)
        np.take(lent.array, rows, axis=0, out=taken[name].array, mode="clip")
    return TensorState(len(rows), taken)


def join(states: Sequence[TensorState], pool: Pool) -> TensorState:
    """The state of all samples of several states, one after the other."""
    samples = sum(state.samples for state in states)
    joined = {}
    for name, first in states[0].tensors.items():
        joined[name] = pool.lend((samples, *first.array.shape[1:]), first.array.dtype.str)
        np.concatenate([state.tensors[name].array for state in states], out=joined[name].array)
    return TensorState(samples, joined)
