"""Training processes killed at random moments and resumed: is every bit of the end the same?

Each is a real ``offramp train`` in an interpreter of its own, on the tests' small world, with a checkpoint about every tenth
of a second beside those at the ends of epochs. It gets SIGKILL a random number of milliseconds after a random step began (or
after the last, when the model is being written), then is resumed with ``--resume`` and compared with an uninterrupted one:
identity of the model, its files, and all tensors of the last checkpoint (weights, average, optimiser).
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import keep, markdown
from offramp.measure.machine import describe_machine
from offramp.report.tables import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from faulty import check_same, fresh, steps_saved, streaming, unfinished, write_images

EPOCHS, EVERY_S, LATEST_MS = 6, 0.1, 250
MODEL = -1
"""The step that stands for writing the model."""


@dataclass(frozen=True)
class Kill:
    """One of them and what came of it."""

    images: str
    step: int
    ms: float
    saved: list[int]
    """Steps of the checkpoints at the kill."""
    half_written: list[str]
    difference: str
    """To the uninterrupted one; empty for none."""


def main() -> None:
    """Kill, resume, compare, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        images = write_images(root / "images")
        worlds: dict[str, tuple[list[Any], int]] = {"in memory": ([], 4), "streamed": (streaming(images), 5)}
        for name, (more, _) in worlds.items():
            train(root / name, *more)
        kills = []
        for number in range(options.kills):
            name = list(worlds)[number % 2]
            more, per_epoch = worlds[name]
            kills.append(kill(root, number, name, more, per_epoch * EPOCHS, draw))
            print(kills[-1], file=sys.stderr, flush=True)
        for name, (more, _) in worlds.items():
            train(root / f"{name} again", *more)
            if found := difference(root / f"{name} again", root / name):
                raise SystemExit(f"two uninterrupted runs differ ({found}); was the code changed meanwhile?")
    keep("faults", text(kills, options.seed), [asdict(one) for one in kills])
    if any(one.difference for one in kills):
        raise SystemExit("a resumed run differs from the uninterrupted one")


def command(out: Path, *more: object) -> list[str]:
    """A training with the settings of this benchmark."""
    return fresh(out, out.with_suffix(".log"), "--set", f"epochs={EPOCHS}", *more, moment="none", every_s=EVERY_S)


def train(out: Path, *more: object) -> None:
    """To the end."""
    code = subprocess.run(command(out, *more)).returncode
    said = out.with_suffix(".log").read_text()
    if code or "Traceback" in said:
        raise SystemExit(said)


def kill(root: Path, number: int, name: str, more: list[Any], steps: int, draw: np.random.Generator) -> Kill:
    """One training that is killed at a random moment, resumed and compared; anew where it was done before the moment."""
    for turn in range(10):
        out = root / f"killed {number} {turn}"
        step, ms = int(draw.integers(-1, steps)), float(draw.uniform(0, LATEST_MS))
        process = subprocess.Popen(command(out, *more))
        while process.poll() is None and str(step) not in begun(out):
            time.sleep(0.001)
        time.sleep(ms / 1e3)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            continue
        saved, half = steps_saved(out), unfinished(out)
        train(out, *more, "--resume")
        return Kill(name, step, ms, saved, half, difference(out, root / name))
    raise SystemExit("ten trainings in turn were done before their moment; this machine is too uneven")


def difference(out: Path, reference: Path) -> str:
    """What is not the same in two finished runs; empty for nothing."""
    try:
        check_same(out, reference)
    except AssertionError as error:
        return str(error)
    return ""


def begun(out: Path) -> list[str]:
    """The steps of the process so far."""
    mark = out.with_suffix(".mark")
    return mark.read_text().splitlines() if mark.exists() else []


def text(kills: list[Kill], seed: int) -> str:
    """The page."""
    machine = describe_machine(torch.device("cpu"))
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    rows = tuple(
        (
            str(number + 1), one.images,
            f"{one.ms:.0f} ms after " + ("the last step" if one.step == MODEL else f"step {one.step + 1} began"),
            ", ".join(map(str, one.saved)) or "none", ", ".join(one.half_written) or "nothing",
            one.difference or "bit-equal",
        )
        for number, one in enumerate(kills)
    )  # fmt: skip
    columns = ("kill", "images", "moment", "checkpoints then", "half written then", "after --resume")
    same = sum(not one.difference for one in kills)
    return (
        f"# Training processes killed at random moments\n\n{facts}; n = {len(kills)} kills (SIGKILL), seed {seed}\n\n"
        + markdown(Table(columns, rows))
        + f"\n{same} of {len(kills)} resumed runs ended bit-equal to the uninterrupted one: identity, files and calibration "
        "of the model; weights, running average and momentum of the last checkpoint; losses and accuracies of every epoch. "
        "Nothing half-written was left in any run folder.\n"
    )


if __name__ == "__main__":
    main()
