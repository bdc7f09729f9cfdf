"""Trains a job in steps of a few minutes: each call is one step and goes on where the last one stopped.

Exit code 0: done; 130: call again; 2: refused. Results lie in $OUT/NAME, without OUT in runs/gpu/NAME/results.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from state import keep, restore, saved
from unpack import DATA, missing

from offramp.errors import ArtifactError, DataError, OfframpError
from offramp_runtime.files import write_text

DONE, AGAIN = 0, 130
LONGEST_S = 540
"""A call."""
PATIENCE_S = 20
"""For the first checkpoint of a call, and for an orderly stop."""
EVALUATION_S = 150
"""What has to be left of a call for the evaluation to be begun."""


@dataclass(frozen=True)
class Job:
    """A training and the goal it is for."""

    recipe: str
    data: str
    settings: tuple[str, ...] = ()
    goal: float | None = None
    """Top-1 of the last exit on the test images."""


JOBS = {
    "cifar10-paper": Job("paper-cifar", "cifar10", ("compile=true",), 0.944),
    "cifar100-paper": Job("paper-cifar", "cifar100", ("compile=true",), 0.755),
    "cifar10-fast": Job("fast-cifar", "cifar10"),
    "cifar100-fast": Job("fast-cifar", "cifar100"),
}
TINY = ("variant=msdnet-digits", "epochs=6", "batch_size=40", "learning_rate=0.05", "precision=fp32", "compile=false")
TINY_HOLDOUT = 40


def main() -> int:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(prog="run.sh", description=__doc__)
    parser.add_argument("name", choices=JOBS)
    parser.add_argument(
        "--restore", type=Path, metavar="FOLDER", help="put a job's state back from its results, no more"
    )
    parser.add_argument("--seconds", type=float, default=500, help="of training in this call (default 500)")
    parser.add_argument("--data-root", type=Path, default=DATA)
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--commit", help="the copy of the repository is of, where git cannot say it")
    parser.add_argument("--tiny", action="store_true", help="a small network and few epochs, to try the script itself")
    options = parser.parse_args()
    try:
        if options.restore is None:
            return Step(options.name, options).run()
        restore(options.name, options.restore, options.runs / options.name)
        print(f"{options.name}: restored; {progress(options.runs / options.name)}")
    except OfframpError as error:
        sys.stderr.write(f"run.sh: {error}\n")
        return error.exit_code
    return DONE


class Step:
    """One call of a job."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.job, self.options = name, JOBS[name], options
        self.folder: Path = options.runs / name
        self.began = time.monotonic()

    def run(self) -> int:
        """Train, or evaluate, or both; returns the exit code."""
        lacking = missing(self.options.data_root, self.job.data)
        if lacking:
            raise DataError(f"{self.job.data}: {'; '.join(lacking)}")
        code = DONE if (self.folder / "model" / "calibration.safetensors").exists() else self._train()
        if code == DONE:
            code = self._evaluate()
        files = keep(self.name, self.folder, self._out, self._results(code)) if self.folder.exists() else []
        print(f"{self.name}: {len(files)} result files in {self._out}")
        said = {DONE: "done", AGAIN: "call me again"}.get(code, f"failed with exit code {code}")
        print(f"{self.name}: {said}; {progress(self.folder)}")
        return code

    def _train(self) -> int:
        job, options, before = self.job, self.options, self._saved
        settings = [*job.settings, *(TINY if options.tiny else ())]
        command = _offramp("train", job.recipe, "--data", job.data, "--data-root", options.data_root)
        command += ["--out", str(self.folder), "--device", options.device]
        command += [part for setting in settings for part in ("--set", setting)]
        command += ["--holdout", str(TINY_HOLDOUT)] if options.tiny else []
        command += ["--resume"] if before else []
        return within(command, options.seconds, lambda: self._saved != before)

    def _evaluate(self) -> int:
        left = LONGEST_S - (time.monotonic() - self.began)
        if left < EVALUATION_S:
            return AGAIN
        command = _offramp("evaluate", self.folder, "--data-root", self.options.data_root, "--sweep", "paper", "--json")
        try:
            found = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=left, check=False)
        except subprocess.TimeoutExpired:
            raise ArtifactError(
                f"{self.folder}: evaluating took longer than a call may; evaluate it elsewhere"
            ) from None
        if found.returncode == DONE:
            write_text(self.folder / "evaluation.json", found.stdout)
        return found.returncode

    @property
    def _saved(self) -> list[Path]:
        return saved(self.folder)

    @property
    def _out(self) -> Path:
        out = os.environ.get("OUT")
        return Path(out) / self.name if out else self.folder / "results"

    def _results(self, code: int) -> dict[str, Any]:
        evaluation, machine = _read(self.folder / "evaluation.json"), _read(self.folder / "environment.json")
        top1 = evaluation["exits"][-1]["top1"] if evaluation else None
        goal = None if self.options.tiny else self.job.goal
        return {
            "job": self.name, "exit_code": code, "progress": progress(self.folder),
            "commit": self.options.commit or machine.get("commit"), "machine": machine,
            "recipe": _read(self.folder / "recipe.json"),
            "n": {"trainings": 1, "test_images": evaluation.get("images")},
            "last_exit_top1": top1, "goal": goal, "reached": top1 >= goal if top1 and goal else None,
            "evaluation": evaluation,
        }  # fmt: skip


def within(command: list[str], seconds: float, progressed: Callable[[], bool], patience: float = PATIENCE_S) -> int:
    """Run a command and stop it with SIGINT when its time is up; returns its exit code.

    If nothing has been saved by then, it may go on until something has, or for ``patience`` seconds; the stop may take
    as long.
    """
    child = subprocess.Popen(command)
    up = time.monotonic() + seconds
    try:
        while child.poll() is None:
            late = time.monotonic() - up
            if late > patience or (late > 0 and progressed()):
                child.send_signal(signal.SIGINT)
                break
            time.sleep(0.1)
        code = child.wait(patience)
    except KeyboardInterrupt:  # the child has had it too
        code = child.wait(patience)
    except subprocess.TimeoutExpired:
        return AGAIN
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    return AGAIN if code == -signal.SIGINT else code


def progress(folder: Path) -> str:
    """The share of the training that is saved, and the time the rest will take."""
    lines = folder / "metrics.jsonl"
    epochs = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    kept = saved(folder)
    if (folder / "evaluation.json").exists():
        return "trained and evaluated"
    if (folder / "model" / "model.json").exists():
        return "trained, not evaluated yet"
    if not epochs or not kept:
        return f"{'less than an epoch' if kept else 'nothing'} is saved yet"
    last, step = epochs[-1], int(kept[-1].name.split(".")[0].removeprefix("step-"))
    total = _read(folder / "recipe.json")["epochs"] * last["step"] / last["epoch"]
    left = last["seconds"] / last["step"] * (total - step)
    return f"{100 * step / total:.1f} % done, about {left / 60:.1f} minutes of training left"


def _offramp(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "offramp", *map(str, arguments)]


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}


if __name__ == "__main__":
    sys.exit(main())
