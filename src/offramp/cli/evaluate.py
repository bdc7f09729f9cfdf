"""``offramp evaluate``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from offramp.cli.options import (
    BadImages,
    Data,
    DataRoot,
    Device,
    Json,
    Model,
    OnBadImage,
    PrecisionName,
    RuntimeName,
    Threads,
    Unseen,
    WorkerCount,
)


class Part(StrEnum):
    """Splits that are not trained on."""

    test = "test"
    calibrate = "calibrate"


class Sweep(StrEnum):
    """Sweeps with a name."""

    paper = "paper"


def run(
    model: Model,
    data: Data = None,
    data_root: DataRoot = None,
    split: Annotated[
        Part, typer.Option(help="Images to run: test ones, or (for data without any) those held out of the training.")
    ] = Part.test,
    ten_crop: Annotated[
        bool, typer.Option("--ten-crop", help="Also every exit's accuracy over ten crops of each image.")
    ] = False,
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
    workers: WorkerCount = None,
    on_bad_image: BadImages = OnBadImage.error,
    unseen: Unseen = False,
    runtime: RuntimeName = "auto",
    precision: PrecisionName = "fp32",
    threads: Threads = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Evaluate on the test split: every exit (anytime), and budgets solved from the model's calibration (budgeted batch).

    Thresholds come from the calibration alone, never from test images.
    """
    from offramp.cli.opening import DataOptions, check_holdout, open_data
    from offramp.cli.reporting import Report, check, show
    from offramp.cli.running import open_model
    from offramp.cli.show import remark

    classifier = open_model(
        model, runtime=runtime, precision=precision, threads=threads, device=device, calibrated=bool(budget or sweep)
    )
    options = DataOptions(data_root, workers, on_bad_image is OnBadImage.skip)
    source = open_data(classifier, data, options)
    if split is Part.calibrate:
        check_holdout(classifier, source, unseen)
        if not unseen:
            remark("budgets are solved from these very images, and so look a little better than they are")
    check(classifier, source.split(split.value), budget or [], deadline_ms or [], ten_crop=ten_crop)
    report = Report.make(classifier, source, budget, deadline_ms or [], split=split.value, ten_crop=ten_crop)
    points = report.paper_sweep() if sweep else None
    show(report, points, csv=csv, page=page, as_json=json)
