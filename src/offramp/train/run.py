"""A training run from recipe to model folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from offramp.catalog import lookup
from offramp.classifier import Classifier, load
from offramp.data.source import Source, SourceSpec
from offramp.decide.accuracy import exit_accuracy
from offramp.engine.collect import collect
from offramp.errors import ArtifactError
from offramp.files import write_json, write_text
from offramp.measure.machine import describe_machine
from offramp.nets.base import MultiExitNet, NetConfig
from offramp.train.loop import Progress, Trainer, build_seeded, fit
from offramp.train.recipe import Recipe

CHECKPOINT, METRICS, RECIPE = "checkpoint.pt", "metrics.jsonl", "recipe.json"


def open_source(recipe: Recipe, data_root: Path | None) -> Source:
    """The recipe's data set with the recipe's hold-out."""
    spec: SourceSpec = lookup("data set", recipe.source, "data", "SOURCES")
    return spec.open(data_root, recipe.holdout_seed)


def check_run_folder(out: Path, resume: bool) -> None:
    """Refuse to overwrite a run, or to resume where there is none, before anything long starts.

    Raises:
        ArtifactError: either of the two.
    """
    started = (out / CHECKPOINT).exists()
    if started and not resume:
        raise ArtifactError(f"{out}: holds a run already; go on with --resume, or choose another --out")
    if resume and not started:
        raise ArtifactError(f"{out}: there is no checkpoint to resume from; leave --resume out")


def train_run(
    recipe: Recipe,
    source: Source,
    out: Path,
    *,
    device: torch.device,
    resume: bool = False,
    report: Callable[[Progress, tuple[float, ...] | None], None] | None = None,
) -> Classifier:
    """Train, write ``out/model``, and calibrate it on the hold-out.

    ``out`` gets ``recipe.json``, ``metrics.jsonl`` (a line per epoch, with the accuracy on the calibrate split),
    ``checkpoint.pt`` after each epoch, and ``model/``. The returned classifier is read back from there, so that all
    figures belong to the stored weights.

    Args:
        recipe: what to do.
        source: opened data set, see :func:`open_source`.
        out: run folder.
        device: where to train.
        resume: go on from the checkpoint in ``out``.
        report: told of progress, at the end of an epoch with the accuracy of each exit.
    """
    check_run_folder(out, resume)
    config = net_config(recipe, source)
    trainer = Trainer(
        build_seeded(config.build, recipe.seed), recipe, source.split("train"), source.preprocessing, device
    )
    if resume:
        trainer.restore(out / CHECKPOINT)
    write_json(out / RECIPE, recipe.to_json())
    lines = [line for line in _read_lines(out / METRICS) if line["step"] <= trainer.step] if resume else []
    about: dict[str, Any] = {
        "recipe": recipe.to_json(),
        "source": {
            "name": source.name, "holdout_seed": source.seed, "holdout": source.spec.holdout,
            "holdout_sha256": source.holdout_digest,
        },
        "machine": describe_machine(device),
    }  # fmt: skip

    def tell(progress: Progress) -> None:
        accuracy = _calibrate_accuracy(progress.net, source, device) if progress.ends_epoch else None
        if accuracy is not None:
            lines.append(_line(progress, accuracy))
            write_text(out / METRICS, "".join(json.dumps(line) + "\n" for line in lines))
        if report is not None:
            report(progress, accuracy)

    net = fit(trainer, out / CHECKPOINT, tell)
    about["seconds"] = round(trainer.seconds, 1)
    Classifier(net.cpu(), source.classes, source.preprocessing, storage="fp16", about=about).save(out / "model")
    classifier = load(out / "model")
    classifier.calibrate(source)
    classifier.save(out / "model")
    return classifier


def net_config(recipe: Recipe, source: Source) -> NetConfig:
    """The recipe's variant, fitted to the classes and images of the data set."""
    variant: NetConfig = lookup("network", recipe.variant, "nets", "VARIANTS")
    preprocessing = source.preprocessing
    return variant.replace(
        num_classes=len(source.classes), image_channels=preprocessing.channels, image_size=preprocessing.image_size
    )


def _calibrate_accuracy(net: MultiExitNet, source: Source, device: torch.device) -> tuple[float, ...]:
    held_out = source.split("calibrate")
    logits = collect(net.eval(), held_out.images, source.preprocessing, device=device)
    return exit_accuracy(logits, held_out.labels).top1


def _line(progress: Progress, accuracy: tuple[float, ...]) -> dict[str, Any]:
    """What is kept of an epoch."""
    return {
        "epoch": round(progress.epoch), "step": progress.step, "seconds": round(progress.seconds, 1),
        "images_per_s": round(progress.images_per_s, 1), "losses": progress.losses, "calibrate_top1": accuracy,
    }  # fmt: skip


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError):
        return []
