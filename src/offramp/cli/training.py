"""Training with a progress bar, shared by ``train`` and ``demo``."""

import json
import sys
from pathlib import Path

import torch

from offramp.classifier import Classifier
from offramp.cli.show import bar
from offramp.errors import ConfigError
from offramp.train.loop import Progress
from offramp.train.recipe import Recipe
from offramp.train.run import check_run_folder, open_source, train_run


def train_with_progress(recipe: Recipe, data_root: Path | None, out: Path, *, resume: bool, device: str) -> Classifier:
    """Run :func:`~offramp.train.run.train_run`; without a terminal, a JSON line per epoch on stderr instead of a bar."""
    place = pick_device(device)
    source = open_source(recipe, data_root)
    check_run_folder(out, resume)
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
                line = {
                    "epoch": round(progress.epoch),
                    "images_per_s": round(progress.images_per_s, 1),
                    "top1": accuracy,
                }
                sys.stderr.write(json.dumps(line) + "\n")

        return train_run(recipe, source, out, device=place, resume=resume, report=tell)


def pick_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` takes CUDA where there is one.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda") and not name.startswith("cuda:"):
        raise ConfigError(f"device '{name}': give cpu, cuda or auto")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device '{name}': this machine has no CUDA device torch can use; take --device cpu")
    try:
        place = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device '{name}': give cpu, cuda, cuda:N or auto") from None
    if place.index is not None and place.index >= torch.cuda.device_count():
        raise ConfigError(f"device '{name}': this machine has {torch.cuda.device_count()} CUDA devices, counted from 0")
    return place
