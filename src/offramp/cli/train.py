"""``offramp train``."""

from pathlib import Path
from typing import Annotated

import typer

from offramp.cli.options import DataRoot


def run(
    recipe: Annotated[str, typer.Argument(help="Recipe by name, see `offramp list`.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a value of the recipe; repeat for more.", metavar="FIELD=VALUE"),
    ] = None,
    data_root: DataRoot = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/RECIPE by default.", metavar="RUN")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is one.")] = "auto",
) -> None:
    """Train by a recipe, calibrate, and write a model folder.

    The run folder gets the recipe, a line of metrics per epoch, a checkpoint after each epoch, and model/.
    """
    from offramp.catalog import lookup
    from offramp.cli.show import say
    from offramp.cli.training import train_with_progress

    chosen = lookup("recipe", recipe, "recipes", "RECIPES").override(settings or [])
    out = out or Path("runs") / recipe
    classifier = train_with_progress(chosen, data_root, out, resume=resume, device=device)
    assert classifier.calibration is not None  # training calibrates
    accuracy = ", ".join(f"{100 * share:.1f}" for share in classifier.calibration.correct.mean(axis=1))
    say(f"trained {out / 'model'}; top-1 % per exit on held-out images: {accuracy}")
    root = f" --data-root {data_root}" if data_root else ""
    say(f"next: offramp evaluate {out}{root}")
