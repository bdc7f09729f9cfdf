"""What a second thread brings at batch 1, wall time."""

import os
from collections.abc import Sequence
from functools import partial
from statistics import median

import torch

import figures
from common import interleaved, spread
from figures import Figure
from graphs import Run
from limits import SIDE
from offramp.report.tables import Table
from one_image import WAKING
from phases import Measured, Network, Phase, public_code, ratios, staging
from runtimes import Opened, config_of, random_images

MOST_ROUNDS = 20
SETTLE_S = 0.02
"""Longer than idle threads of an engine keep spinning."""
PRODUCT = f"a matrix product of {SIDE}³ in PyTorch"
DIRECT = ", direct"
"""Behind a runtime's name: straight to the last exit, one graph without borders between stages."""


def two_threads(network: Network, opened: Opened, names: Sequence[str]) -> Phase:
    """Each runtime with one and with two, float32, staged to the last exit and straight there; and what can be had at all.

    Args:
        network: which.
        opened: its runtimes with one thread.
        names: of the runtimes to compare.
    """
    config = config_of(network.variant)
    image, reference = random_images(config, 1), public_code(config)
    twice = Opened(config, names, ["fp32"], threads=2)
    runs: dict[str, Run] = {}
    left, right, last = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE), config.exits - 1
    for threads, runtimes in ((1, opened.runtimes), (2, twice.runtimes)):
        runs[f"{PRODUCT} {threads}"] = with_threads(threads, partial(torch.mm, left, right))
        runs[f"public code {threads}"] = with_threads(threads, partial(reference, image))
        for name in names:
            if runtime := runtimes.get((name, "fp32")):
                runs[f"{name} {threads}"] = with_threads(threads, staging(runtime, image, last))
                runs[f"{name}{DIRECT} {threads}"] = with_threads(threads, partial(runtime.direct, last, image))
    rounds, load = min(MOST_ROUNDS, network.rounds), os.getloadavg()[0]
    torch.set_num_threads(2)
    with torch.inference_mode():
        times = interleaved(runs, rounds, waking=WAKING, settle_s=SETTLE_S)
    torch.set_num_threads(1)
    ways = (PRODUCT, "public code", *names, *(f"{name}{DIRECT}" for name in names))
    both = [name for name in ways if {f"{name} 1", f"{name} 2"} <= times.keys()]
    gains = {name: ratios(times[f"{name} 1"], times[f"{name} 2"]) for name in both}
    best = min((name for name in names if name in both), key=lambda name: median(times[f"{name} 2"]), default="")
    figure = Figure(
        figures.TWO_THREADS[network.name], "", "fp32", best, times.get(f"{best} 2", []), gains.get(best, []),
        "" if best else twice.reason("fp32"),
    )  # fmt: skip
    rows = tuple(
        (name, spread(times[f"{name} 1"]), spread(times[f"{name} 2"]), f"{median(gains[name]):.2f}×") for name in both
    )
    table = Table(("to the last exit, fp32", "one thread, ms", "two threads, ms", "gain"), rows)
    title = f"{network.name}, batch 1, wall time, n = {rounds}, load average {load:.1f} (1 of it our own)"
    return Phase(title, [Measured(figure)], table, times)


def with_threads(threads: int, run: Run) -> Run:
    """Sets PyTorch's threads before each run; other engines have their own."""

    def running() -> object:
        torch.set_num_threads(threads)
        return run()

    return running
