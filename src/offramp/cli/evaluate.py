"""``offramp evaluate``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from offramp.cli.options import DataRoot, Json, Model


class Sweep(StrEnum):
    """Sweeps with a name."""

    paper = "paper"


def run(
    model: Model,
    data: Annotated[str | None, typer.Option(help="Data set; by default the one the model was trained on.")] = None,
    data_root: DataRoot = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(help="Budget to run for real; repeat for more. Three are chosen if none is given."),
    ] = None,
    deadline_ms: Annotated[
        list[float] | None, typer.Option(help="Deadline to run image by image; repeat for more.")
    ] = None,
    sweep: Annotated[
        Sweep | None,
        typer.Option(help="`paper`: the 39 points of the published budgeted evaluation, on stored scores."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write the raw figures (of the sweep, else of the exits) there.", metavar="FILE")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write a self-contained HTML page there.", metavar="FILE")] = None,
    json: Json = False,
) -> None:
    """Evaluate on the test split: every exit (anytime), and budgets solved from the model's calibration (budgeted batch).

    Thresholds come from the calibration alone, never from test images.
    """
    from offramp.classifier import load
    from offramp.cli.opening import open_data
    from offramp.cli.reporting import Report, show

    classifier = load(model)
    source = open_data(classifier, data, data_root)
    report = Report.make(classifier, source, budget, deadline_ms or [], sweep is not None)
    points = report.paper_sweep() if sweep else None
    show(report, points, csv=csv, page=page, as_json=json)
