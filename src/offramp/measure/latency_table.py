"""Tables of what stages take, of runtimes on tensors. The tables themselves need no PyTorch."""

import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from offramp.measure.latency import settle
from offramp.runtimes import Runtime
from offramp_runtime import latency_table
from offramp_runtime.latency_table import SIZES, LatencyTable
from offramp_runtime.stage_table import Setting

S = TypeVar("S")


@torch.inference_mode()
def measure_latencies(
    runtime: Runtime[S],
    images: Callable[[int], Tensor],
    setting: Setting,
    *,
    largest: int = SIZES[-1],
    seconds: float = 15.0,
    clock: Callable[[], float] = time.perf_counter,
) -> LatencyTable:
    """:func:`offramp_runtime.latency_table.measure_latencies` of a runtime, on whatever device it computes."""
    return latency_table.measure_latencies(
        runtime, images, setting, largest=largest, seconds=seconds, clock=clock, rows=all_rows, settle=settled
    )


def all_rows(batch: Tensor) -> Tensor:
    """Indices of all rows, where the batch is."""
    return torch.arange(len(batch), device=batch.device)


def settled(logits: Tensor) -> None:
    """Wait until they are there."""
    settle(logits.device)
