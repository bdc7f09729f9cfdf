"""``offramp data fetch``."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import TaskID

    from offramp.data.fetch import Report


def run(
    name: Annotated[str, typer.Argument(help="cifar10, cifar100, mnist or fashion-mnist.")],
    data_root: Annotated[Path, typer.Option(help="Folder to put the data set's folder into.", metavar="DIR")] = Path(
        "data"
    ),
    url: Annotated[
        str | None, typer.Option(help="Address of a mirror, instead of the authors' own.", metavar="ADDRESS")
    ] = None,
) -> None:
    """Download a public data set from its authors' address, check it, and put it where the other commands find it.

    Nothing else in offramp downloads anything. Files that are there already are checked and kept.
    """
    from offramp.cli.show import say
    from offramp.data.fetch import fetch

    with _progress() as report:
        found = fetch(name, data_root, url=url, report=report)
    for file in found:
        size = f"{file.path.stat().st_size / 1e6:,.1f} MB"
        say(f"{file.path}: {f'downloaded, {size}, checksum right' if file.new else 'there already, checksum right'}")
    say(f"next: offramp data check {shlex.quote(str(data_root / name))}")


@contextmanager
def _progress() -> Iterator["Report"]:
    """A bar of bytes for each file, on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    shown = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    tasks: dict[str, TaskID] = {}

    def report(file: str, done: int, total: int) -> None:
        if file not in tasks:
            tasks[file] = shown.add_task(file, total=total or None)
        shown.update(tasks[file], completed=done)

    with shown:
        yield report
