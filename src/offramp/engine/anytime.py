"""Answers before a deadline: as deep as the clock allows."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from offramp.errors import BudgetError
from offramp.measure.latency import settle
from offramp.runtimes import Runtime

S = TypeVar("S")
Clock = Callable[[], float]
"""Seconds from some fixed instant."""


@torch.inference_mode()
def run_until(
    runtime: Runtime[S],
    images: Callable[[], Tensor],
    deadline_ms: float,
    step_ms: tuple[float, ...],
    clock: Clock = time.perf_counter,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (k, logits (N, C)) of exit 0, 1, …, and stop before the first stage that no longer fits.

    The deadline counts from the first ``next``. A stage is started only if what it takes, plus what has passed, stays
    within the deadline. Time the consumer spends between two answers counts too.

    Args:
        runtime: computes.
        images: gives the normalised images (N, C, H, W); called when the clock runs, so that it is paid for too.
        deadline_ms: from now; ``inf`` for none.
        step_ms: milliseconds to allow for each stage, (K,), for this number of images.
        clock: for tests.

    Raises:
        BudgetError: not even the first stage fits.
    """
    began = clock()
    if not deadline_ms > 0:
        raise BudgetError(f"deadline {deadline_ms:g} ms: must be a positive number of milliseconds")
    if step_ms[0] > deadline_ms:
        raise BudgetError(
            f"deadline {deadline_ms:g} ms is too short for exit 0, which takes about {step_ms[0]:.3g} ms here; "
            "allow more time, give fewer images per call, or take a smaller network"
        )
    state = runtime.start(images())
    for k in range(runtime.num_exits):
        passed = (clock() - began) * 1e3
        if k > 0 and passed + step_ms[k] > deadline_ms:
            return
        state, logits = runtime.step(k, state)
        settle(logits.device)
        yield k, logits
