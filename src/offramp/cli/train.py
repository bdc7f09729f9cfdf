"""``offramp train``."""

from pathlib import Path
from typing import Annotated

import typer

from offramp.cli.options import (
    BadImages,
    DataRoot,
    Device,
    HoldoutIndices,
    HoldoutSize,
    OnBadImage,
    WorkerCount,
)

LARGEST_SIDE = 4096
"""Pixels of an image's side; what is beyond is a slip of the finger, and would fail for lack of memory."""


def run(
    recipe: Annotated[str, typer.Argument(help="Recipe by name, see `offramp list` and `offramp recipe show NAME`.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a value of the recipe; repeat for more.", metavar="FIELD=VALUE"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images of yours (a folder with a folder per class), or a data set by name, instead of the recipe's.",
            metavar="FOLDER|NAME",
        ),
    ] = None,
    data_root: DataRoot = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Model to train further; where classes differ, the last layer of each exit starts anew.",
            metavar="MODEL",
        ),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(help="What keeps the weights of --init: none, backbone, or stages:N.", metavar="PART"),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of the images in pixels, instead of the data set's or model's.", min=1, max=LARGEST_SIDE
        ),
    ] = None,
    holdout: HoldoutSize = None,
    holdout_indices: HoldoutIndices = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/RECIPE by default.", metavar="RUN")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    workers: WorkerCount = None,
    on_bad_image: BadImages = OnBadImage.error,
    device: Device = "auto",
) -> None:
    """Train by a recipe, calibrate, and write a model folder.

    The run folder gets the recipe, the environment, a line of metrics per epoch, checkpoints, and at the end model/. Ctrl-C
    saves a checkpoint first; --resume goes on with the same options. Images of yours: see docs/your-images.md.
    """
    from offramp.catalog import lookup
    from offramp.classifier import load
    from offramp.cli.opening import DataOptions, warn_of_few
    from offramp.cli.show import say
    from offramp.cli.training import TrainOptions, train_with_progress

    extra = [f"{field}={value}" for field, value in (("freeze", freeze), ("image_size", size)) if value is not None]
    chosen = lookup("recipe", recipe, "recipes", "RECIPES").override([*(settings or []), *extra])
    out = out or Path("runs") / recipe
    how = DataOptions(data_root, workers, on_bad_image is OnBadImage.skip, holdout, holdout_indices)
    start = load(init) if init else None
    classifier, source = train_with_progress(chosen, TrainOptions(out, data, how, start, device, resume))
    assert classifier.calibration is not None  # training calibrates
    warn_of_few(classifier.calibration)
    accuracy = ", ".join(f"{100 * share:.1f}" for share in classifier.calibration.correct.mean(axis=1))
    say(f"trained {out / 'model'}; top-1 % per exit on held-out images: {accuracy}")
    named = f" --data {data}" if data else ""
    root = f" --data-root {data_root}" if data_root else ""
    split = "" if source.spec.has_test else " --split calibrate"
    say(f"next: offramp evaluate {out}{named}{root}{split}")
