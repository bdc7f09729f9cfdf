"""Do saved MACs become saved time when images leave in given shares? And does a stream stay within its memory?

Batches of 64 and 256 of which 40, 25, 15, 10 and 10 % leave at the five exits, drawn at random: in one batch that shrinks,
and through stage queues. Then the CIFAR-10 test images over and over, streamed in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common import header, interleaved, keep, markdown, spread
from offramp.catalog import lookup
from offramp.classifier import Classifier
from offramp.classifier.entry import find
from offramp.classifier.folder import read
from offramp.decide.answers import Answer, Memo
from offramp.engine.budgeted import run_budgeted
from offramp.engine.stage_queues import run_queued
from offramp.measure.latency import time_stages
from offramp.report.tables import Table

SHARES = (0.40, 0.25, 0.15, 0.10, 0.10)
BATCHES, QUEUED, ROUNDS = (64, 256), 8, 7
STREAMED, BUDGET = (6_000, 60_000), "18.94MMAC"
BOUND_MB = 1000
"""What a stream may hold beyond what the process held before it."""


@dataclass(frozen=True)
class Drawn:
    """Of those asked at exit k so many leave, drawn by a fixed permutation, that ``shares`` of all leave at the exits."""

    shares: tuple[float, ...]

    def stop(self, k: int, answer: Answer, memo: Memo) -> Tensor:
        """Mask (N,) of the samples that leave at exit k."""
        del memo
        count = len(answer.probabilities)
        leaving = round(count * self.shares[k] / sum(self.shares[k:]))
        mask = torch.zeros(count, dtype=torch.bool)
        mask[torch.randperm(count, generator=torch.Generator().manual_seed(k))[:leaving]] = True
        return mask


def main() -> None:
    """Print and keep the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True, help="folder above cifar10/")
    parser.add_argument("--runtime", default="auto", help="as of offramp.load, or 'net' for the network itself")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--stream", type=int, help="only stream so many images, and print what that took as JSON")
    parser.add_argument("--images", type=Path, help="array to stream, instead of the data set")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = read(find("cifar10"))
    if options.runtime != "net":
        model.use(options.runtime, precision=options.precision, threads=1)
    if options.stream:
        print(json.dumps(stream(model, np.load(options.images), options.stream)))
        return
    pixels = lookup("data set", "cifar10", "data", "SOURCES").open(options.data_root).split("test").images
    name = f"{model.running.name or 'net'} {model.running.precision}"
    tables: list[str] = []
    raw: dict[str, object] = {}
    for size in BATCHES:
        table, raw[str(size)] = leave(model, pixels, size, options.rounds)
        tables.append(f"\n## Batches of {size}\n\n" + markdown(table))
    raw["stream"] = streamed = list(in_fresh_processes(pixels))
    text = header(f"Batches whose images leave, shipped CIFAR-10 model, runtime {name}", options.rounds)
    keep(f"batches_{name.replace(' ', '_')}", text + "".join(tables) + stream_text(model, streamed), raw)


def leave(model: Classifier, pixels: NDArray[np.uint8], size: int, rounds: int) -> tuple[Table, object]:
    """Leaving early against the same runtime run whole, and both against the reference."""
    runtime, policy, at_exit = model.runtime, Drawn(SHARES), np.asarray(model.costs.at_exit)
    assert model.preprocessing is not None
    images = model.preprocessing.normalize(torch.from_numpy(pixels[: QUEUED * size]))
    batches = list(images.split(size))  # type: ignore[no-untyped-call]
    reference, plain = model.net.config.build_plain().eval(), batches[0].contiguous()
    variants: dict[str, Callable[[], object]] = {
        "public code, all exits": torch.inference_mode()(lambda: reference(plain)),
        "all to the last exit": partial(whole, runtime, batches[0]),
        "leaving, one batch": partial(run_budgeted, runtime, batches[0], policy),
        f"leaving, queues, {QUEUED} batches": lambda: list(run_queued(runtime, batches, policy, batch_size=size)),
    }
    times = interleaved(variants, rounds, warmup=1)
    one = run_budgeted(runtime, batches[0], policy)[1]
    many = torch.cat([exits for _, exits in run_queued(runtime, batches, policy, batch_size=size)])
    names, rows = list(variants), []
    alone = np.array([median(ms) for ms in time_stages(runtime, lambda: batches[0], 5, 1, time.process_time).ms])
    for name, count, exits in zip(names, (size, size, size, len(images)), (None, None, one, many), strict=True):
        share = 1.0 if exits is None else float(at_exit[exits.numpy()].mean()) / at_exit[-1]
        per_image = [ms / count for ms in times[name]]
        time_share = median(per_image) / (median(times[names[1]]) / size)
        faster = median(times[names[0]]) / size / median(per_image)
        cells = ("", "", "") if exits is None else (f"{share:.3f}", f"{time_share:.3f}", f"{time_share / share:.2f}")
        rows.append((name, spread(per_image), f"{1e3 / median(per_image):,.0f}", *cells, f"{faster:.2f}"))
    # What would be left were later stages to take just as long per image, and regrouping nothing.
    inside = np.array([float((one >= k).double().mean()) for k in range(len(alone))])
    share, time_share = float(at_exit[one.numpy()].mean()) / at_exit[-1], float(inside @ alone / alone.sum())
    cells = (f"{share:.3f}", f"{time_share:.3f}", f"{time_share / share:.2f}")
    rows.append(("stages at full batches", "", "", *cells, ""))
    columns = ("what", "ms an image", "images/s", "MAC share", "time share", "ratio", "× public code")
    return Table(columns, tuple(rows)), times


@torch.inference_mode()
def whole(runtime: Any, images: Tensor) -> None:
    """All exits, one stage after the other."""
    state = runtime.start(images)
    for k in range(runtime.num_exits):
        state, _ = runtime.step(k, state)


def stream(model: Classifier, pixels: NDArray[np.uint8], count: int) -> dict[str, float]:
    """Megabytes held before and at most while streaming, and process CPU seconds."""

    def batches() -> Iterator[NDArray[np.uint8]]:
        for first in range(0, count, 100):
            yield pixels[first % len(pixels) : first % len(pixels) + 100]

    plan = model.plan(BUDGET)
    model.predict(pixels[:1], plan=plan)
    Path("/proc/self/clear_refs").write_text("5")  # the most that was held counts from now on
    before, began = held_mb("VmRSS"), time.process_time()
    answered = sum(len(part) for part in model.predict_stream(batches(), plan=plan))
    assert answered == count
    return {"images": count, "before_mb": before, "peak_mb": held_mb("VmHWM"), "cpu_s": time.process_time() - began}


def held_mb(what: str) -> float:
    """By this process, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def in_fresh_processes(pixels: NDArray[np.uint8]) -> Iterator[dict[str, float]]:
    """:func:`stream` where nothing else has been held before."""
    with tempfile.TemporaryDirectory() as place:
        np.save(images := Path(place) / "images.npy", pixels)
        for count in STREAMED:
            command = [sys.executable, *sys.argv, "--stream", str(count), "--images", str(images)]
            yield json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def stream_text(model: Classifier, found: list[dict[str, float]]) -> str:
    """A table, and whether the bound was kept."""
    rows = tuple(
        (
            f"{one['images']:,}", f"{one['images'] / one['cpu_s']:,.0f}", f"{one['before_mb']:,.0f}",
            f"{one['peak_mb']:,.0f}", f"{one['peak_mb'] - one['before_mb']:,.0f}",
        )
        for one in found
    )  # fmt: skip
    columns = ("images", "images per CPU second", "before, MB", "peak, MB", "difference, MB")
    kept = all(one["peak_mb"] - one["before_mb"] <= BOUND_MB for one in found)
    return (
        f"\n## Streaming at {BUDGET}, batches of {model.stream_batch_size}\n\n{markdown(Table(columns, rows))}\n"
        f"Bound: {BOUND_MB} MB beyond what was held before, {'kept' if kept else 'BROKEN'}; each row one run in a fresh "
        f"process. At most {model.net.num_exits} x {model.stream_batch_size} images wait.\n"
    )


if __name__ == "__main__":
    main()
