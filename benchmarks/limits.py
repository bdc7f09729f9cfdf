"""What the hardware allows: the fastest multiply-adds and copies seen here, and what the CPU can do at all."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from graphs import ENGINES, open_graph
from offramp_runtime.machine import cpu_features

SIDE, COPY_BYTES, REPEATS = 1024, 128 << 20, 15
NEEDS = {"bf16": ("avx512_bf16", "amx_bf16")}
"""What a precision needs one of, as Linux names it; without, its arithmetic would be emulated."""
WANTS = {"int8": ("avx512_vnni", "avx_vnni", "amx_int8")}
"""What makes a precision fast; without, it takes more instructions."""


@dataclass(frozen=True)
class Limits:
    """Of one thread, in float32."""

    gflops: float
    """10⁹ multiplications and additions a second, in a large matrix product."""
    engine: str
    """That did it."""
    gigabytes_per_s: float
    """Read and written, copying far more than fits in caches."""

    def ms(self, macs: float) -> float:
        """The least time for so many multiply-accumulates."""
        return 2 * macs / self.gflops / 1e6

    def reading_ms(self, weights: int) -> float:
        """The least time to read so many float32 values from memory once."""
        return 4 * weights / self.gigabytes_per_s / 1e6

    def __str__(self) -> str:
        return (
            f"{self.gflops:.0f} GFLOP/s in a matrix product of {SIDE}³ ({self.engine}, the fastest of torch, "
            f"{', '.join(ENGINES)}), {self.gigabytes_per_s:.1f} GB/s copying {COPY_BYTES >> 20} MiB (best of {REPEATS})"
        )


def measure_limits() -> Limits:
    """Best of a few runs, one thread, process CPU time; call with torch set to one thread."""
    product = nn.Linear(SIDE, SIDE, bias=False)
    rows = torch.randn(SIDE, SIDE)
    runs: dict[str, Callable[[], object]] = {"torch": lambda: product(rows)}
    runs |= {engine: open_graph(engine, product, rows) for engine in ENGINES}
    with torch.inference_mode():
        seconds = {name: best_s(run) for name, run in runs.items()}
    fastest = min(seconds, key=lambda name: seconds[name])
    source, target = np.ones(COPY_BYTES, np.uint8), np.empty(COPY_BYTES, np.uint8)
    copying = best_s(lambda: np.copyto(target, source))
    return Limits(2 * SIDE**3 / seconds[fastest] / 1e9, fastest, 2 * COPY_BYTES / copying / 1e9)


def best_s(run: Callable[[], object]) -> float:
    """Seconds of the fastest run."""
    seconds = []
    for _ in range(REPEATS):
        began = time.process_time()
        run()
        seconds.append(time.process_time() - began)
    return min(seconds)


def lacks(precision: str) -> str | None:
    """Why this CPU does not compute in a precision; None where it does."""
    return _without(NEEDS.get(precision, ()))


def slowed(precision: str) -> str | None:
    """Why a precision cannot reach here what it reaches elsewhere; None where it can."""
    return _without(WANTS.get(precision, ()))


def _without(features: Sequence[str]) -> str | None:
    if not features or set(features) & cpu_features():
        return None
    return f"this CPU has none of {', '.join(features)}"
