"""``offramp data check``."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offramp.cli.options import Json, WorkerCount

if TYPE_CHECKING:  # both take PyTorch along
    from offramp.data.overview import Overview, Problem
    from offramp.data.scan import Scanned
    from offramp.data.source import Part, SourceSpec
    from offramp.data.workers import Workers

_TABLE, _ENDS, _NAMES, _ITEMS = 20, 5, 10, 20
"""Classes a table shows, classes shown of more at either end, class names and images listed of a problem."""


def run(
    path: Annotated[Path, typer.Argument(help="Folder of images, or of a public data set's files.", metavar="FOLDER")],
    workers: WorkerCount = None,
    json: Json = False,
) -> None:
    """Look at every image of a data set before anyone trains: what is there, what is wrong, and how to go on.

    Problems found do not fail the command; what makes training impossible does, such as a class without images.
    """
    from offramp.cli.show import say_json
    from offramp.data.workers import Workers

    overview = _look(path, Workers() if workers is None else Workers(workers))
    if json:
        say_json(overview.to_json())
    else:
        _say(overview)


def _look(path: Path, workers: "Workers") -> "Overview":
    from offramp.data.detect import find_source
    from offramp.data.overview import Overview
    from offramp.data.preprocess import Preprocessing
    from offramp.errors import DataError

    spec = find_source(path, Preprocessing(32, (0.5,) * 3, (0.5,) * 3))
    parts: dict[Part, Scanned] = {"train": _scan(spec, "train", workers)}
    if not parts["train"].readable:
        raise DataError(
            f"{path}: none of its {len(parts['train'].findings):,} training images can be read; get them anew"
        )
    no_test = ""
    try:
        parts["test"] = _scan(spec, "test", workers)
    except DataError as error:  # one can train without; what is the matter is told
        no_test = str(error)
    return Overview(path, spec.classes, spec.holdout, parts, no_test, spec.has_test)


def _scan(spec: "SourceSpec", part: "Part", workers: "Workers") -> "Scanned":
    from offramp.cli.show import bar, counting
    from offramp.data.scan import Scanned, scan

    with bar() as progress:
        progress.add_task(f"reading the {part} part", total=None, note="")
        samples = spec.read(None, part)
    with counting(f"looking at the {part} part", len(samples)) as done:
        return Scanned(samples.labels, scan(samples, workers, done))


def _say(overview: "Overview") -> None:
    from offramp.cli.show import say

    _say_parts(overview)
    _say_classes(overview)
    if overview.no_test and not overview.wants_test:
        say(f"\nno test part: {overview.no_test}")
    say(f"\nset aside of the training part for calibration: {overview.holdout:,} images")
    problems = overview.problems
    say(f"problems: {len(problems) or 'none'}")
    for number, problem in enumerate(problems, 1):
        _say_problem(number, problem)
    suggestion = overview.suggest()
    say(f"\n{suggestion.recipe}: {suggestion.reason}")
    say(f"next: {suggestion.command}")


def _say_parts(overview: "Overview") -> None:
    from offramp.cli.show import say_table
    from offramp.report.tables import Table

    rows = []
    for part, scanned in overview.parts.items():
        counts = sorted(scanned.per_class(len(overview.classes)))
        per_class = _range(f"{count:,}" for count in (counts[0], counts[len(counts) // 2], counts[-1]))
        sizes = _range(f"{width}x{height}" for width, height in scanned.sizes().values())
        modes = ", ".join(f"{mode} {count:,}" for mode, count in scanned.modes().items())
        rows.append((part, f"{len(scanned.findings):,}", f"{len(scanned.unreadable):,}", per_class, sizes, modes))
    columns = ("part", "images", "unreadable", "per class, min / median / max", "pixels, min / median / max", "colour")
    say_table(f"{overview.path}: {len(overview.classes):,} classes", Table(columns, tuple(rows)))


def _range(values: Iterable[str]) -> str:
    """Least, median and most; one value where they are equal."""
    shown = tuple(values)
    return " / ".join(shown[:1] if len(set(shown)) == 1 else shown)


def _say_classes(overview: "Overview") -> None:
    from offramp.cli.show import say, say_table
    from offramp.report.tables import Table

    counts = {name: [f"{count:,}" for count in overview.per_class[name].values()] for name in overview.classes}
    names = sorted(overview.classes, key=lambda name: -overview.per_class[name]["train"])
    if len(names) <= _TABLE:
        rows = tuple((name, *counts[name]) for name in names)
        say_table("Readable images of each class", Table(("class", *overview.parts), rows))
        return
    if counts[names[0]][0] == counts[names[-1]][0]:  # the table above says it
        return
    say()
    for title, some in (("largest", names[:_ENDS]), ("smallest", names[-_ENDS:])):
        say(f"{title} classes: " + ", ".join(f"{name} ({counts[name][0]})" for name in some))


def _say_problem(number: int, problem: "Problem") -> None:
    from offramp.cli.show import say

    say(f"{number}. {problem.text}:")
    names_only = problem.kind in ("empty", "thin", "untested")
    shown = problem.items if problem.kind == "unreadable" else problem.items[: _NAMES if names_only else _ITEMS]
    rest = len(problem.items) - len(shown)
    lines = [*shown, *([f"… and {rest:,} more; --json lists all"] if rest else [])]
    for line in [", ".join(lines)] if names_only else lines:
        say(f"   {line}".encode(errors="backslashreplace").decode())  # file names may be no Unicode
