"""How the commands speak: results on stdout, progress and errors on stderr."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable

if TYPE_CHECKING:  # importing it takes PyTorch along, and `--help` should not wait for that
    from offramp.report.tables import Table


def say(text: str = "") -> None:
    """A line on stdout."""
    _out().print(text, highlight=False, markup=False, soft_wrap=True)


def say_json(value: object) -> None:
    """Machine-readable output."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def say_table(title: str, table: "Table") -> None:
    """An aligned table with a heading."""
    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*row)
    console = _out()
    console.print(f"\n{title}", style="bold", highlight=False, markup=False)
    console.print(shown, soft_wrap=True, crop=False)


def complain(message: str, code: int = 2) -> int:
    """One line on stderr; returns the exit code."""
    sys.stderr.write("offramp: " + " ".join(message.split()) + "\n")
    return code


def remark(message: str) -> None:
    """Something worth knowing that is not a result."""
    sys.stderr.write(f"note: {message}\n")


@contextlib.contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar with the time left; yields a function that is told how many are done."""
    with bar() as progress:
        task = progress.add_task(what, total=total, note="")
        yield lambda done: progress.update(task, completed=done)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """A sign of life on a terminal while something takes long whose end cannot be told."""
    with Console(stderr=True).status(what):
        yield


def bar() -> Progress:
    """A progress bar that vanishes when done and keeps quiet when stderr is not a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"), console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip


def _out() -> Console:
    return Console(width=None if sys.stdout.isatty() else 200)
