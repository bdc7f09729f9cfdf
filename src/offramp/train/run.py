"""A training run from recipe to model folder."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from offramp.catalog import lookup
from offramp.classifier import Classifier, load
from offramp.data.detect import named_source
from offramp.data.preprocess import Preprocessing
from offramp.data.source import Samples, Source, SourceSpec
from offramp.engine.collect import collect_batches
from offramp.errors import ArtifactError, ConfigError
from offramp.files import remove_unfinished, write_json, write_text
from offramp.measure.machine import describe_machine, describe_packages
from offramp.nets.base import MultiExitNet, NetConfig
from offramp.train.checkpoint import Checkpoints
from offramp.train.events import Events
from offramp.train.feed import resident
from offramp.train.groups import fresh_exits
from offramp.train.guard import LOCK, StopSignals, run_lock
from offramp.train.loop import Keeper, Progress, fit
from offramp.train.recipe import Recipe
from offramp.train.trainer import Trainer, build_seeded

CHECKPOINTS, METRICS, RECIPE, ENVIRONMENT, EVENTS, MODEL = (
    "checkpoints", "metrics.jsonl", "recipe.json", "environment.json", "events", "model",
)  # fmt: skip
IN_RUN = (CHECKPOINTS, METRICS, RECIPE, ENVIRONMENT, EVENTS, MODEL, LOCK)
"""All there is in a run folder."""

Report = Callable[[Progress, tuple[float, ...] | None], None]


def source_of(recipe: Recipe, data: str | None, init: Classifier | None) -> tuple[SourceSpec, Preprocessing]:
    """The data set of a run, and what its images go through.

    Args:
        recipe: names a data set, and a size and interpolation that may differ from it.
        data: catalog name or folder, instead of the recipe's.
        init: model trained further; its preprocessing holds.

    Raises:
        ConfigError: no data set is named.
    """
    check_start(recipe, init)
    base = None if init is None else init.preprocessing
    if base is None and recipe.source:
        own: SourceSpec = lookup("data set", recipe.source, "data", "SOURCES")
        base = own.preprocessing
    name = data or recipe.source
    if not name:
        raise ConfigError("this recipe is for images of yours; name their folder, or a data set, with --data")
    spec = named_source(name, base)
    return spec, _fitted(spec.preprocessing if init is None or base is None else base, recipe)


def _fitted(base: Preprocessing, recipe: Recipe) -> Preprocessing:
    size = recipe.image_size or base.image_size
    resize = round(base.resize * size / base.image_size)
    interpolation = base.interpolation if recipe.interpolation == "keep" else recipe.interpolation
    return replace(base, image_size=size, resize=resize, interpolation=interpolation)


def check_run_folder(out: Path, resume: bool) -> None:
    """Refuse to overwrite a run, or to resume where there is none, before anything long starts.

    Raises:
        ArtifactError: either of the two, or the folder holds something else, or cannot be read.
    """
    try:
        saved = Checkpoints(out / CHECKPOINTS).exists
        begun, finished = (out / RECIPE).exists(), (out / MODEL / "model.json").exists()
        foreign = [] if begun or not out.is_dir() else sorted({path.name for path in out.iterdir()} - set(IN_RUN))
    except OSError as error:
        raise ArtifactError(f"{out}: cannot be read ({error.strerror}); check its permissions") from None
    if (saved or finished) and not resume:
        raise ArtifactError(f"{out}: holds a run already; go on with --resume, or choose another --out")
    if foreign:
        raise ArtifactError(f"{out}: holds something else than a run ({foreign[0]}); choose another --out")
    if resume and not saved and not begun:
        raise ArtifactError(f"{out}: there is no checkpoint to resume from; leave --resume out")


@dataclass(frozen=True, eq=False)
class Run:
    """What is to be trained, and where.

    The folder ``out`` gets ``recipe.json``, ``environment.json``, ``metrics.jsonl`` (a line per epoch, with the accuracy on
    the calibrate split), ``events/`` if TensorBoard is installed, ``checkpoints/``, and ``model/``.
    """

    recipe: Recipe
    source: Source
    out: Path
    device: torch.device
    init: Classifier | None = None
    """Model to train further."""
    checkpoint_every_s: float = 600
    """Seconds between checkpoints inside an epoch; there is one at the end of each epoch anyway."""

    def train(
        self, *, resume: bool = False, report: Report | None = None, remark: Callable[[str], None] = lambda _: None
    ) -> Classifier:
        """Train, write the model, and calibrate it on the hold-out.

        The returned classifier is read back from its folder, so that all figures belong to the stored weights.

        Args:
            resume: go on from the last sound checkpoint; from the beginning where the run did not come to its first.
            report: told of progress, at the end of an epoch with the accuracy of each exit.
            remark: told of a damaged checkpoint, or of another machine than the run began on.

        Raises:
            ArtifactError: the folder holds a run, or none to resume, or cannot be written, or another run is writing there.
            InterruptedRunError: SIGINT or SIGTERM came; a checkpoint is written.
        """
        check_run_folder(self.out, resume)
        with run_lock(self.out), reproducible(self.device):
            check_run_folder(self.out, resume)  # again: another run may have been at work until now
            for folder in (self.out, self.out / CHECKPOINTS, self.out / MODEL):
                remove_unfinished(folder)
            checkpoints = Checkpoints(self.out / CHECKPOINTS)
            net = build_net(self.recipe, self.source, self.init)
            trainer = Trainer(
                net, self.recipe, self.source.split("train"), self.source.preprocessing, self.device, self.source.workers
            )  # fmt: skip
            if not checkpoints.exists:
                write_json(self.out / RECIPE, self.recipe.to_json())
                if resume:
                    remark("the run did not come to its first checkpoint; it begins anew")
            belongs, held_out = self._belongs(), resident(self.source.split("calibrate"))
            lines = self._resumed(trainer, checkpoints, belongs, remark) if checkpoints.exists else []
            machine = describe_machine(self.device) | {"packages": describe_packages()}
            write_json(self.out / ENVIRONMENT, {"data": self.source.name, **machine})
            self._write_metrics(lines)
            with Events.open(self.out / EVENTS, trainer.step) as events:
                keeper = Keeper(trainer, checkpoints, lambda: {**belongs, "metrics": lines}, self.checkpoint_every_s)

                def tell(progress: Progress) -> None:
                    accuracy = self._accuracy(progress.net, held_out) if progress.ends_epoch else None
                    if accuracy is not None:
                        lines.append(_line(progress, accuracy))
                        self._write_metrics(lines)
                        events.write(lines[-1])
                    if report is not None:
                        report(progress, accuracy)

                with StopSignals() as signals:
                    net = fit(trainer, keeper, tell, signals)
            return self._finish(net, trainer.seconds)

    def _resumed(
        self, trainer: Trainer, checkpoints: Checkpoints, ours: dict[str, Any], remark: Callable[[str], None]
    ) -> list[dict[str, Any]]:
        """Bring the trainer to the last checkpoint; returns the metrics up to there."""
        state = checkpoints.load(remark)
        for what, way in (("data", "use the same files and hold-out"), ("init", "name the same model with --init")):
            if state[what] != ours[what]:
                raise ArtifactError(f"{self.out}: the run was begun with other {what}; {way}")
        trainer.restore(state)
        began: dict[str, Any] = state["machine"]
        now: dict[str, Any] = ours["machine"]
        other = [
            f"{name} {now.get(name)} (was {began.get(name)})"
            for name in began | now
            if began.get(name) != now.get(name)
        ]
        if other:
            remark(f"resumed with {', '.join(other)}: weights may differ in their last bits from an uninterrupted run")
        lines: list[dict[str, Any]] = state["metrics"]
        return lines

    def _belongs(self) -> dict[str, Any]:
        """What a checkpoint belongs to, besides its recipe."""
        return {
            "machine": describe_packages() | describe_machine(self.device), "data": self.source.digest,
            "init": None if self.init is None else self.init.identity,
        }  # fmt: skip

    def _accuracy(self, net: MultiExitNet, held_out: Samples) -> tuple[float, ...]:
        """Top-1 of each exit, (K,), batch by batch: all logits of ImageNet's hold-out would be gigabytes."""
        right, done = torch.zeros(net.num_exits), 0
        batches = held_out.batches(128)
        for logits in collect_batches(net.eval(), batches, self.source.preprocessing, device=self.device):
            labels = torch.from_numpy(held_out.labels[done : done + logits.shape[1]])
            right += (logits.argmax(2) == labels).sum(1)
            done += len(labels)
        return tuple((right.double() / done).tolist())

    def _write_metrics(self, lines: list[dict[str, Any]]) -> None:
        write_text(self.out / METRICS, "".join(json.dumps(line) + "\n" for line in lines))

    def _finish(self, net: MultiExitNet, seconds: float) -> Classifier:
        source, holdout = self.source, self.source.holdout
        about: dict[str, Any] = {
            "recipe": self.recipe.to_json(),
            "source": {
                "name": source.name, "holdout_seed": holdout.seed, "holdout": len(source.calibrate_indices),
                "holdout_sha256": source.holdout_digest,
            },
            "machine": describe_machine(self.device),
            "seconds": round(seconds, 1),
        }  # fmt: skip
        if holdout.indices is not None:
            about["source"]["holdout_indices"] = source.calibrate_indices.tolist()
        if self.init is not None:
            about["init"] = {"identity": self.init.identity, "source": self.init.about.get("source", {}).get("name")}
        model = self.out / MODEL
        Classifier(net.cpu(), source.classes, source.preprocessing, storage="fp16", about=about).save(model)
        classifier = load(model)
        classifier.net.to(self.device)
        classifier.calibrate(source)
        classifier.save(model)
        return classifier


@contextlib.contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Let a GPU choose the same convolution algorithms each time, in full fp32 where fp32 is asked for."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def build_net(recipe: Recipe, source: Source, init: Classifier | None) -> MultiExitNet:
    """The network of a run, fitted to the classes and images of the data set; from ``init`` with new last layers.

    Raises:
        ConfigError: see :func:`check_start`; or images of other channels than the model's.
    """
    check_start(recipe, init)
    net = build_seeded(net_config(recipe, source, init).build, recipe.seed)
    if init is not None:
        fresh_exits(net, init.net, keep_answers=init.classes == source.classes)
    return net


def check_start(recipe: Recipe, init: Classifier | None) -> None:
    """Refuse a recipe that does not say what to begin with, or says it twice.

    Raises:
        ConfigError: neither a variant nor a model, or both, or random weights that are to be kept.
    """
    if init is None and not recipe.variant:
        raise ConfigError("this recipe trains a model further; name it with --init, such as --init cifar10")
    if init is not None and recipe.variant:
        raise ConfigError(
            f"the recipe builds '{recipe.variant}' and --init brings a network of its own; take the recipe finetune"
        )
    if init is None and recipe.freeze != "none":
        raise ConfigError(
            f"freeze={recipe.freeze}: would keep random weights; name a model with --init, or leave it out"
        )


def net_config(recipe: Recipe, source: Source, init: Classifier | None = None) -> NetConfig:
    """The recipe's variant, or the model's network, fitted to the classes and images of the data set."""
    base: NetConfig = init.net.config if init else lookup("network", recipe.variant, "nets", "VARIANTS")
    preprocessing = source.preprocessing
    return base.replace(
        num_classes=len(source.classes), image_channels=preprocessing.channels, image_size=preprocessing.image_size
    )


def _line(progress: Progress, accuracy: tuple[float, ...]) -> dict[str, Any]:
    """What is kept of an epoch."""
    return {
        "epoch": round(progress.epoch), "step": progress.step, "seconds": round(progress.seconds, 1),
        "images_per_s": round(progress.images_per_s, 1), "losses": progress.losses, "calibrate_top1": accuracy,
    }  # fmt: skip
