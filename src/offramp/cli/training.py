"""Training with a progress bar, shared by ``train`` and ``demo``."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from offramp.classifier import Classifier
from offramp.cli.device import pick_device
from offramp.cli.opening import DataOptions
from offramp.cli.show import bar, remark
from offramp.data.source import Source
from offramp.train.loop import Progress
from offramp.train.recipe import Recipe
from offramp.train.run import Run, check_run_folder
from offramp.train.start import source_of


@dataclass(frozen=True)
class TrainOptions:
    """What a training needs besides its recipe."""

    out: Path
    data: str | None = None
    """Catalog name or folder, instead of the recipe's own data set."""
    how: DataOptions = field(default_factory=DataOptions)
    init: Classifier | None = None
    device: str = "auto"
    resume: bool = False


def train_with_progress(recipe: Recipe, options: TrainOptions) -> tuple[Classifier, Source]:
    """Do a :class:`~offramp.train.run.Run`; without a terminal, a JSON line per epoch on stderr instead of a bar."""
    device = pick_device(options.device)
    check_run_folder(options.out, options.resume)
    spec, preprocessing = source_of(recipe, options.data, options.init)
    how = options.how
    source = spec.open(how.data_root, how.cut(recipe.holdout_seed), preprocessing, how.processes, how.sift)
    run = Run(recipe, source, options.out, device, options.init)
    with bar() as shown:
        task = shown.add_task("reading data", total=None, note="")
        accuracies: tuple[float, ...] = ()

        def tell(progress: Progress, accuracy: tuple[float, ...] | None) -> None:
            nonlocal accuracies
            accuracies = accuracy or accuracies
            held_out = " ".join(f"{100 * share:.1f}" for share in accuracies)
            note = f"{progress.images_per_s:,.0f} images/s" + (f", held-out top-1 % {held_out}" if held_out else "")
            label = f"epoch {min(int(progress.epoch) + 1, recipe.epochs)} of {recipe.epochs}"
            shown.update(task, description=label, completed=progress.step, total=progress.total_steps, note=note)
            if shown.disable and accuracy is not None:
                sys.stderr.write(json.dumps(_line(progress, accuracy)) + "\n")
                sys.stderr.flush()

        return run.train(resume=options.resume, report=tell, remark=remark), source


def _line(progress: Progress, accuracy: tuple[float, ...]) -> dict[str, object]:
    left = (progress.total_steps - progress.step) * progress.seconds / progress.step
    return {
        "epoch": round(progress.epoch), "epochs": progress.total_steps // progress.steps_per_epoch,
        "images_per_s": round(progress.images_per_s, 1), "seconds_left": round(left, 1), "top1": accuracy,
    }  # fmt: skip
