"""What every benchmark shares: a header that says on what it ran, and interleaved timing."""

import json
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import numpy as np
import torch

from offramp.measure.machine import describe_machine
from offramp.report.tables import Table

RESULTS = Path(__file__).parent / "results"


def interleaved(
    variants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 3, waking: int = 0, settle_s: float = 0
) -> dict[str, list[float]]:
    """Milliseconds of each variant, all of them once per round, so that a noisy moment hits all alike.

    Their order changes from round to round, since what ran just before matters.

    With one thread process CPU time is taken, which preemption does not change; with more, wall time. ``waking`` runs
    before each that counts find the caches filled by others and leave them as one image after the other does;
    ``settle_s`` before them lets the threads of the one before fall asleep.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in variants}
    order, shuffle = list(variants), random.Random(0).shuffle
    for turn in range(warmup + rounds):
        shuffle(order)
        for name in order:
            run = variants[name]
            time.sleep(settle_s)
            for _ in range(waking):
                run()
            began = clock()
            run()
            if turn >= warmup:
                times[name].append((clock() - began) * 1e3)
    return times


def spread(values: list[float]) -> str:
    """Median with the 10th and 90th percentile."""
    low, high = np.quantile(values, (0.1, 0.9))
    return f"{median(values):.2f} [{low:.2f} … {high:.2f}]"


def header(title: str, rounds: int, of_what: str = "interleaved rounds") -> str:
    """Heading and one line on hardware, versions and n."""
    machine = describe_machine(torch.device("cpu"))
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    clock = "process CPU time" if torch.get_num_threads() == 1 else "wall time"
    return f"# {title}\n\n{facts}; n = {rounds} {of_what}, median [p10 … p90], {clock}\n"


def markdown(table: Table) -> str:
    """As a Markdown table, its columns aligned in the source too."""
    widths = [max(3, *map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
    lines = [table.columns, tuple("-" * (width - 1) + ":" for width in widths), *table.rows]
    return "\n".join(f"| {' | '.join(map(str.rjust, line, widths))} |" for line in lines) + "\n"


def keep(name: str, text: str, values: object | None = None) -> None:
    """Print the text and store it, with the raw values where given, under ``benchmarks/results``."""
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    if values is not None:
        (RESULTS / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n")
