"""What run folders say of their runs, read without what trains them."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from offramp.classifier.folder import MODEL as MODEL_FILE
from offramp.classifier.run_folder import ENVIRONMENT, LOCK, METRICS, MODEL, RECIPE
from offramp.errors import ArtifactError
from offramp.report.tables import Table

State = Literal["running", "finished", "stopped", "unknown"]

_NONE = "–"


@dataclass(frozen=True)
class Epoch:
    """How far a run had come at the end of an epoch."""

    epoch: int
    seconds: float
    """Since the run began, without the time it lay stopped."""
    images_per_s: float
    top1: tuple[float, ...]
    """Shares of the held-out images each exit answers rightly, (K,)."""


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A run as its folder tells it."""

    folder: Path
    state: State
    """Running while a process holds its lock, finished once there is a model; unknown where the lock may not be tried."""
    recipe: dict[str, Any]
    environment: dict[str, Any]
    data: str
    """Name of the data set; empty where nothing says it yet."""
    epochs: tuple[Epoch, ...]

    @cached_property
    def last(self) -> Epoch | None:
        """The newest epoch."""
        return self.epochs[-1] if self.epochs else None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        last = self.last
        return {
            "run": str(self.folder), "state": self.state, "network": self.recipe.get("variant"), "data": self.data,
            "epochs": last.epoch if last else 0, "of_epochs": self.recipe.get("epochs"),
            "minutes": last.seconds / 60 if last else 0.0, "images_per_s": last.images_per_s if last else None,
            "calibrate_top1": list(last.top1) if last else None, "commit": self.environment.get("commit"),
            "recipe": self.recipe, "environment": self.environment,
        }  # fmt: skip


def is_run(folder: Path) -> bool:
    """Whether a run began there."""
    return (folder / RECIPE).is_file()


def find_runs(folder: Path) -> list[Path]:
    """The run in ``folder`` itself, or those anywhere below it, sorted; nothing is looked for inside a run."""
    found = []
    for place, below, _files in os.walk(folder):
        below.sort()
        if is_run(Path(place)):
            found.append(Path(place))
            below.clear()
    return found


def read_run(folder: Path) -> RunRecord:
    """What the files of a run say.

    Raises:
        ArtifactError: one of them is damaged.
    """
    recipe = _object(folder / RECIPE)
    environment = _object(folder / ENVIRONMENT) if (folder / ENVIRONMENT).exists() else {}
    described = folder / MODEL / MODEL_FILE
    model = _object(described) if described.exists() else None
    data = str(environment.get("data") or _trained_on(model) or recipe.get("source") or "")
    epochs = _epochs(folder / METRICS) if (folder / METRICS).exists() else ()
    return RunRecord(folder, _state(folder, model is not None), recipe, environment, data, epochs)


def runs_table(runs: Sequence[RunRecord]) -> Table:
    """One row per run."""
    columns = (
        "run",
        "network",
        "data",
        "epochs",
        "state",
        "minutes",
        "images/s",
        "top-1 %, exit 0",
        "last exit",
        "commit",
    )
    return Table(columns, tuple(map(_row, runs)))


def difference_table(runs: Sequence[RunRecord]) -> Table:
    """The values of the recipes that are not the same in all runs."""
    rows = [(field, *map(_written, values)) for field, values in differences(runs).items()]
    return Table(("recipe", *(str(run.folder) for run in runs)), tuple(rows))


def differences(runs: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Field → its value in each run, where they are not all the same; None in runs of releases that lack the field."""
    fields = dict.fromkeys(field for run in runs for field in run.recipe)
    values = {field: [run.recipe.get(field) for run in runs] for field in fields}
    return {field: found for field, found in values.items() if any(value != found[0] for value in found)}


def accuracy_table(runs: Sequence[RunRecord]) -> Table:
    """Top-1 on the held-out images after the newest epoch, one row per exit."""
    last = [run.last.top1 if run.last else () for run in runs]
    rows = [
        (str(k), *(f"{100 * top1[k]:.2f}" if k < len(top1) else _NONE for top1 in last))
        for k in range(max(map(len, last), default=0))
    ]
    return Table(("exit", *(str(run.folder) for run in runs)), tuple(rows))


def _row(run: RunRecord) -> tuple[str, ...]:
    last = run.last
    done = f"{last.epoch if last else 0}/{run.recipe.get('epochs', '?')}"
    first, deepest = (f"{100 * last.top1[k]:.2f}" if last and last.top1 else _NONE for k in (0, -1))
    return (
        str(run.folder),
        run.recipe.get("variant") or "of --init",
        run.data or "?",
        done,
        run.state,
        f"{last.seconds / 60:.1f}" if last else _NONE,
        f"{last.images_per_s:,.0f}" if last else _NONE,
        first,
        deepest,
        str(run.environment.get("commit", "?")),
    )


def _written(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(_written, value)) or "-"
    if isinstance(value, bool):
        return str(value).lower()
    return _NONE if value is None else f"{value:g}" if isinstance(value, float) else str(value) or "-"


def _state(folder: Path, finished: bool) -> State:
    ended: State = "finished" if finished else "stopped"
    if not (folder / LOCK).exists():
        return ended
    try:
        with FileLock(folder / LOCK, timeout=0):  # for a moment; a run that starts just then waits longer
            return ended
    except Timeout:
        return "running"
    except OSError:  # a folder of somebody else
        return ended if finished else "unknown"


def _trained_on(model: dict[str, Any] | None) -> object:
    about = (model or {}).get("about")
    source = about.get("source") if isinstance(about, dict) else None
    return source.get("name") if isinstance(source, dict) else None


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read as JSON ({error}); the run cannot be shown") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: holds a {type(value).__name__}, not named values; the run cannot be shown")
    return value


def _epochs(path: Path) -> tuple[Epoch, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); the run cannot be shown") from None
    return tuple(_epoch(path, number, line) for number, line in enumerate(lines, 1))


def _epoch(path: Path, number: int, line: str) -> Epoch:
    try:
        found = json.loads(line)
        top1 = tuple(map(float, found["calibrate_top1"]))
        return Epoch(int(found["epoch"]), float(found["seconds"]), float(found["images_per_s"]), top1)
    except (ValueError, KeyError, TypeError) as error:
        kind = type(error).__name__
        raise ArtifactError(
            f"{path}: line {number} is not that of an epoch ({kind}); the run cannot be shown"
        ) from None
