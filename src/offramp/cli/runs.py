"""``offramp runs``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offramp.cli.options import Json

if TYPE_CHECKING:
    from offramp.report.runs import RunRecord


def run(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folders, or folders with runs below them; runs by default.", metavar="FOLDER…"),
    ] = None,
    json: Json = False,
) -> None:
    """List trainings: how far they are, how fast, and how right on the held-out images.

    Two and more run folders named one by one are compared as well: what differs in their recipes, and each exit's top-1.
    """
    from offramp.cli.show import say_json
    from offramp.report.runs import differences, is_run

    named = folders or [Path("runs")]
    runs, damaged = _read([place for folder in named for place in _find(folder, asked=bool(folders))])
    compared = [one for one in runs if one.folder in named and is_run(one.folder)]
    if json:
        values = {"runs": [one.to_json() for one in runs], "damaged": damaged}
        say_json(values | ({"differences": differences(compared)} if len(compared) > 1 else {}))
    else:
        _say(runs, compared, damaged)


def _find(folder: Path, *, asked: bool) -> list[Path]:
    from offramp.errors import ArtifactError
    from offramp.report.runs import find_runs

    found = find_runs(folder)
    if not found and asked:
        what = "there is no run in it or below" if folder.is_dir() else "no such folder"
        raise ArtifactError(f"{folder}: {what}; name one that `offramp train` has written")
    return found


def _read(places: list[Path]) -> tuple[list["RunRecord"], dict[str, str]]:
    """The runs that can be read, and what is the matter with the others."""
    from offramp.errors import ArtifactError
    from offramp.report.runs import read_run

    runs: list[RunRecord] = []
    damaged: dict[str, str] = {}
    for place in dict.fromkeys(places):
        try:
            runs.append(read_run(place))
        except ArtifactError as error:
            damaged[str(place)] = str(error)
    return runs, damaged


def _say(runs: list["RunRecord"], compared: list["RunRecord"], damaged: dict[str, str]) -> None:
    from offramp.cli.show import remark, say, say_table
    from offramp.report.runs import accuracy_table, difference_table, runs_table

    for problem in damaged.values():
        remark(problem)
    if not runs:
        say("no runs here; `offramp train RECIPE` starts one")
        return
    say_table("Runs (top-1 on held-out images, after the newest epoch)", runs_table(runs))
    if len(compared) < 2:
        return
    table = difference_table(compared)
    if table.rows:
        say_table("Where their recipes differ", table)
    else:
        say("\ntheir recipes are the same")
    say_table("Held-out top-1 %", accuracy_table(compared))
