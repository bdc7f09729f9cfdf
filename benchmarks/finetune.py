"""Fine-tuning against training from scratch in equal time: 20 classes of CIFAR-100, 50 images each, on a CPU.

For each seed 50 images of each class (drawn by the seed) become a folder of PNG files beside the classes' official test
images. The shipped CIFAR-10 model is trained further on it with the recipe ``finetune``; the same network is trained from
scratch for the same number of steps with the recipe of the shipped model. Finished arms are kept in a file of lines and not
done again.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

import offramp
from common import RESULTS, header, keep, markdown
from offramp.catalog import lookup
from offramp.data.cifar import SOURCES
from offramp.data.holdout import Holdout
from offramp.data.workers import Workers
from offramp.report.evaluation import evaluate
from offramp.report.tables import Table
from offramp.train.recipe import Recipe
from offramp.train.run import Run
from offramp.train.start import source_of

CLASSES, IMAGES, SEEDS = 20, 50, (0, 1, 2)
ARMS = ("fine-tuned", "from scratch")


def main() -> None:
    """Do what is missing, then print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=lookup("recipe", "finetune", "recipes", "RECIPES").epochs)
    parser.add_argument("--lines", type=Path, default=RESULTS / "finetune.jsonl")
    options = parser.parse_args()
    done = [json.loads(line) for line in options.lines.read_text().splitlines()] if options.lines.exists() else []
    for seed in SEEDS:
        for arm in ARMS:
            if any((line["seed"], line["arm"]) == (seed, arm) for line in done):
                continue
            with tempfile.TemporaryDirectory() as place:
                line = {"seed": seed, "arm": arm, **train(arm, seed, Path(place), options.data_root, options.epochs)}
            done.append(line)
            with options.lines.open("a") as lines:
                lines.write(json.dumps(line) + "\n")
    report(done, options.epochs)


def train(arm: str, seed: int, place: Path, data_root: Path, epochs: int) -> dict[str, object]:
    """One run, evaluated on the test images of its classes."""
    write_images(place / "images", data_root, seed)
    recipe, init = recipe_of(arm, seed, epochs), offramp.load("cifar10") if arm == ARMS[0] else None
    spec, preprocessing = source_of(recipe, str(place / "images"), init)
    source = spec.open(None, Holdout(recipe.holdout_seed), preprocessing, Workers(0))
    run = Run(recipe, source, place / "run", torch.device("cpu"), init)
    classifier = run.train(report=lambda progress, accuracy: tell(arm, seed, progress.epoch, accuracy))
    top1 = evaluate(classifier, source).exits.accuracy.top1
    return {"top1": top1, "seconds": classifier.about["seconds"], "recipe": asdict(recipe)}


def recipe_of(arm: str, seed: int, epochs: int) -> Recipe:
    """The recipe of an arm; from scratch it is the one that made the shipped model, with as many steps as the other."""
    name = "finetune" if arm == ARMS[0] else "cifar10"
    recipe: Recipe = lookup("recipe", name, "recipes", "RECIPES")
    batch = lookup("recipe", "finetune", "recipes", "RECIPES").batch_size
    return replace(recipe, epochs=epochs, batch_size=batch, ema_decay=0.98, seed=seed, holdout_seed=seed)


def write_images(place: Path, data_root: Path, seed: int) -> None:
    """``place/train/CLASS`` with 50 images each, ``place/test/CLASS`` with all official ones."""
    source = SOURCES["cifar100"]
    chosen = np.sort(np.random.default_rng(100).permutation(len(source.classes))[:CLASSES])
    draw = np.random.default_rng(seed)
    for part in ("train", "test"):
        split = source.read(data_root, part)
        for label in chosen:
            folder = place / part / source.classes[label]
            folder.mkdir(parents=True)
            rows = np.flatnonzero(split.labels == label)
            for row in draw.permutation(rows)[:IMAGES] if part == "train" else rows:
                split.image(int(row)).save(folder / f"{row}.png")


def tell(arm: str, seed: int, epoch: float, accuracy: tuple[float, ...] | None) -> None:
    """A line of progress at the end of an epoch."""
    if accuracy is not None:
        sys.stderr.write(f"{arm}, seed {seed}, epoch {epoch:g}: {' '.join(f'{share:.3f}' for share in accuracy)}\n")


def report(done: list[dict[str, object]], epochs: int) -> None:
    """Mean ± standard deviation over the seeds."""
    rows = []
    for arm in ARMS:
        top1 = 100 * np.array([line["top1"] for line in done if line["arm"] == arm])
        seconds = np.array([line["seconds"] for line in done if line["arm"] == arm], float)
        cells = (f"{m:.1f} ± {s:.1f}" for m, s in zip(top1.mean(0), top1.std(0, ddof=1), strict=True))
        rows.append((arm, *cells, f"{seconds.mean():.0f} ± {seconds.std(ddof=1):.0f}"))
    exits = len(rows[0]) - 2
    columns = ("training", *(f"exit {k}, top-1 %" for k in range(exits)), "seconds")
    text = header(f"{CLASSES} classes of CIFAR-100, {IMAGES} images each, {epochs} epochs", len(SEEDS))
    text = text.replace(
        "interleaved rounds, median [p10 … p90], process CPU time", "seeds, mean ± standard deviation, wall time"
    )
    text += f"\nAccuracy on the {100 * CLASSES:,} official test images of the classes. Both trainings do equally many steps "
    text += "of the same network; their seconds differ with what else the machine did.\n\n"
    text += markdown(Table(columns, tuple(rows)))
    keep("finetune", text)


if __name__ == "__main__":
    main()
