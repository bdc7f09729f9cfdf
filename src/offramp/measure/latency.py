"""How long each stage takes on this machine, measured."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from offramp.runtimes import Runtime
from offramp_runtime.costs import Costs

S = TypeVar("S")


@dataclass(frozen=True)
class StageTimes:
    """Repeated measurements of every stage at one batch size."""

    batch_size: int
    ms: tuple[tuple[float, ...], ...]
    """(K, repeats), per batch."""

    def quantile(self, q: float) -> tuple[float, ...]:
        """Milliseconds each stage stays below in a share ``q`` of its runs, (K,)."""
        return tuple(float(np.quantile(stage, q)) for stage in self.ms)

    @property
    def costs(self) -> Costs:
        """Median milliseconds per image up to each exit."""
        per_image = np.cumsum([median(stage) / self.batch_size for stage in self.ms])
        note = f"median of {len(self.ms[0])} runs at batch size {self.batch_size}"
        return Costs(tuple(per_image.tolist()), "ms", note=note)


@torch.inference_mode()
def time_stages(
    runtime: Runtime[S],
    images: Callable[[], Tensor],
    repeats: int = 10,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> StageTimes:
    """Time every stage, all samples going to the last exit.

    Args:
        runtime: what to time.
        images: gives the normalised images (N, C, H, W); its time and that of ``start`` count to the first stage.
        repeats: measured runs.
        warmup: runs before them that are not counted.
        clock: seconds, for tests.
    """
    runs = []
    count = 0
    for _ in range(warmup + repeats):
        laps = [clock()]
        batch = images()
        count = len(batch)
        state = runtime.start(batch)
        for k in range(runtime.num_exits):
            state, logits = runtime.step(k, state)
            settle(logits.device)
            laps.append(clock())
        runs.append(np.diff(laps) * 1e3)
    # A clock too coarse to see a stage must not make it free.
    stages = np.maximum(np.array(runs[warmup:]).T, 1e-6)
    return StageTimes(count, tuple(tuple(stage.tolist()) for stage in stages))


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was given; CPUs always have."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
