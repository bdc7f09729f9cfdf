"""Are answers in time? Thousands of deadlines on one CIFAR-10 image each, idle and beside one busy core."""

import argparse
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import offramp
from common import keep, markdown
from deadline_curves import curve, draw
from deadline_trials import KINDS, LATE_MS, NOTHING, Array, Trials, busy_core, percent, run
from offramp.catalog import lookup
from offramp.data.source import Split
from offramp.measure.machine import describe_machine
from offramp.report.tables import Table

IMAGES = 2000
CONDITIONS = ("idle", "busy")


def main() -> None:
    """Print and keep the tables and the plot."""
    asked = arguments()
    model = offramp.load("cifar10", asked.runtime, precision=asked.precision, threads=asked.threads)
    torch.set_num_threads(asked.threads)
    test = lookup("data set", "cifar10", "data", "SOURCES").open(asked.data_root).split("test")
    images, labels = test.images[:IMAGES], test.labels[:IMAGES]
    right = (model.collect(Split(images, labels)).argmax(-1).numpy() == labels).astype(float)
    found = {}
    load = os.getloadavg()[0]
    for condition in asked.conditions:
        name = f"{asked.runtime}-{asked.precision}-{asked.threads}-{asked.n}-{condition}.npz"
        path = asked.work / name
        if not path.exists():
            beside: AbstractContextManager[None] = busy_core() if condition == "busy" else nullcontext()
            with beside:
                run(model, images, asked.n).save(path)
        found[condition] = Trials.load(path)
    machine = ", ".join(f"{name} {value}" for name, value in describe_machine(torch.device("cpu")).items())
    note = (
        f"\n{asked.n:,} deadlines a condition; model cifar10, runtime {asked.runtime}, {asked.precision}, {asked.threads} "
        f"threads; load average of the machine before: {load:.1f}. A miss is an answer more than {LATE_MS} ms late.\n"
    )
    curves = {condition: curve(trials, right) for condition, trials in found.items()}
    draw(curves)
    text = "\n".join(
        (f"# Deadlines\n\n{machine}; wall time\n{note}", misses(found), stages(found), exits(found, right))
    )
    keep("deadlines", text, {"curves": curves, "summary": {name: summary(trials) for name, trials in found.items()}})


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True, help="folder above cifar10/")
    parser.add_argument(
        "--work", type=Path, required=True, help="where the trials of each condition are kept to go on from"
    )
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=CONDITIONS)
    parser.add_argument("--n", type=int, default=10_000, help="deadlines a condition")
    return parser.parse_args()


def late(back_ms: Array, deadline_ms: Array) -> float:
    """Share of those there are that missed, in percent."""
    there = ~np.isnan(back_ms)
    return percent(back_ms[there] - deadline_ms[there] > LATE_MS)


def summary(trials: Trials) -> dict[str, Any]:
    """The figures of one condition, by kind of deadline."""
    figures: dict[str, Any] = {}
    for number, kind in enumerate(KINDS):
        mine = trials.kind == number
        deadline, back = trials.deadline[mine], trials.predicted[mine]
        answered = ~np.isnan(back)
        lateness = (back - deadline)[answered]
        share = np.minimum(back, deadline)[answered] / deadline[answered]
        early = trials.exit[mine][answered] < trials.exit.max()
        figures[kind] = {
            "deadlines": int(mine.sum()),
            "refused_%": percent(~answered),
            "misses_%": late(back, deadline),
            "control_misses_%": late(trials.control[mine], deadline),
            "any_lateness_%": percent(lateness > 0),
            "late_ms_p99_of_misses": _quantile(lateness[lateness > LATE_MS], 0.99),
            "share_used_%": percent(share),
            "share_used_before_the_last_exit_%": percent(share[early]),
        }
    asked = trials.kind == 1
    figures["interrupts"] = {
        "nothing_yet_%": percent(trials.seen[asked] == NOTHING),
        "misses_%": late(_held_up(trials), trials.deadline),
        "wait_late_ms": [_quantile(_late_waits(trials), q) for q in (0.5, 0.99, 0.999)],
        "latest_us": [_quantile(trials.latest_ns[asked] / 1e3, q) for q in (0.5, 0.99, 0.999)],
    }
    generation, took_ms = trials.collected.T
    figures["collections"] = {
        "n": [int((generation == number).sum()) for number in range(3)],
        "longest_ms": [float(took_ms[generation == number].max(initial=0)) for number in range(3)],
    }
    return figures


def _held_up(trials: Trials) -> Array:
    """When interrupts were served that came before the last exit; others do not wait for the deadline."""
    return np.where(trials.interrupted >= trials.deadline, trials.interrupted, np.nan)


def _late_waits(trials: Trials) -> Array:
    late_ms = _held_up(trials) - trials.deadline
    return late_ms[~np.isnan(late_ms)]


def _quantile(values: Array, q: float) -> float:
    return float(np.quantile(values, q)) if len(values) else float("nan")


def misses(found: dict[str, Trials]) -> str:
    """Table of announced deadlines."""
    columns = (
        "condition",
        "deadlines",
        "n",
        "refused %",
        "misses %",
        "control misses %",
        "difference",
        "p99 of misses, ms late",
        "share used %",
        "before the last exit %",
    )
    rows = []
    for condition, trials in found.items():
        figures = summary(trials)
        for kind in KINDS:
            one = figures[kind]
            ours, theirs = one["misses_%"], one["control_misses_%"]
            rows.append(
                (
                    condition,
                    kind,
                    f"{one['deadlines']:,}",
                    f"{one['refused_%']:.2f}",
                    f"{ours:.2f}",
                    f"{theirs:.2f}",
                    f"{ours - theirs:+.2f}",
                    f"{one['late_ms_p99_of_misses']:.2f}",
                    f"{one['share_used_%']:.1f}",
                    f"{one['share_used_before_the_last_exit_%']:.1f}",
                )
            )
    return "Announced: `predict(image, deadline_ms)`\n\n" + markdown(Table(columns, tuple(rows)))


def stages(found: dict[str, Trials]) -> str:
    """Table of interrupts and of what else the process did."""
    columns = (
        "condition",
        "nothing yet %",
        "`wait` late, ms p50 / p99 / p99.9",
        "`latest()`, us p50 / p99 / p99.9",
        "garbage collections, generation 0 / 1 / 2",
        "longest, ms",
    )
    rows = []
    for condition, trials in found.items():
        figures = summary(trials)
        interrupts, collected = figures["interrupts"], figures["collections"]
        rows.append(
            (
                condition,
                f"{interrupts['nothing_yet_%']:.2f}",
                " / ".join(f"{value:.3f}" for value in interrupts["wait_late_ms"]),
                " / ".join(f"{value:.2f}" for value in interrupts["latest_us"]),
                " / ".join(map(str, collected["n"])),
                " / ".join(f"{value:.2f}" for value in collected["longest_ms"]),
            )
        )
    return "Interrupts nobody knew of: `start(image)`, then `wait` and `latest`\n\n" + markdown(
        Table(columns, tuple(rows))
    )


def exits(found: dict[str, Trials], right: NDArray[np.float64]) -> str:
    """Table of the exits: accuracy, and what going there directly takes."""
    columns = ("exit", "top-1 %", *(f"direct, {name}, ms p50 / p99" for name in found))
    rows = []
    for k, score in enumerate(right.mean(1)):
        times = (trials.piece_ms[:, k] for trials in found.values())
        rows.append((str(k), f"{100 * score:.2f}", *(f"{np.median(t):.2f} / {_quantile(t, 0.99):.2f}" for t in times)))
    whole = (trials.piece_ms[:, -1] for trials in found.values())
    rows.append(("whole, staged", "", *(f"{np.median(t):.2f} / {_quantile(t, 0.99):.2f}" for t in whole)))
    return "The pieces, interleaved with the deadlines\n\n" + markdown(Table(columns, tuple(rows)))


if __name__ == "__main__":
    main()
