"""A training run from recipe to model folder."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from offramp.classifier import Classifier, load
from offramp.classifier.folder import MODEL as MODEL_FILE
from offramp.classifier.run_folder import CHECKPOINTS, ENVIRONMENT, EVENTS, IN_RUN, METRICS, MODEL, RECIPE
from offramp.data.source import Samples, Source
from offramp.decide.answers import ThisExit
from offramp.engine.collect import collect_scores
from offramp.errors import ArtifactError
from offramp.measure.machine import describe_machine, describe_packages
from offramp.nets.base import MultiExitNet
from offramp.train.checkpoint import Checkpoints
from offramp.train.events import Events
from offramp.train.feed import resident
from offramp.train.guard import StopSignals, run_lock
from offramp.train.loop import Keeper, Progress, fit
from offramp.train.recipe import Recipe
from offramp.train.start import build_net
from offramp.train.trainer import Trainer
from offramp_runtime.files import remove_unfinished, write_json, write_text

Report = Callable[[Progress, tuple[float, ...] | None], None]


def check_run_folder(out: Path, resume: bool) -> None:
    """Refuse to overwrite a run, or to resume where there is none, before anything long starts.

    Raises:
        ArtifactError: either of the two, or the folder holds something else, or cannot be read.
    """
    try:
        saved = Checkpoints(out / CHECKPOINTS).exists
        begun, finished = (out / RECIPE).exists(), (out / MODEL / MODEL_FILE).exists()
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
            trainer = self._trainer()
            checkpoints, belongs = Checkpoints(self.out / CHECKPOINTS), self._belongs()
            lines: list[dict[str, Any]] = []
            if checkpoints.exists:
                lines = self._resumed(trainer, checkpoints, belongs, remark)
            else:
                write_json(self.out / RECIPE, self.recipe.to_json())
                if resume:
                    remark("the run did not come to its first checkpoint; it begins anew")
            self._write_environment()
            self._write_metrics(lines)
            keeper = Keeper(trainer, checkpoints, lambda: {**belongs, "metrics": lines}, self.checkpoint_every_s)
            with Events.open(self.out / EVENTS, trainer.step) as events:
                tell = self._teller(lines, events, report)
                with StopSignals() as signals:
                    net = fit(trainer, keeper, tell, signals)
            return self._finish(net, trainer.seconds)

    def _trainer(self) -> Trainer:
        net, source = build_net(self.recipe, self.source, self.init), self.source
        return Trainer(net, self.recipe, source.split("train"), source.preprocessing, self.device, source.workers)

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

    def _teller(self, lines: list[dict[str, Any]], events: Events, report: Report | None) -> Callable[[Progress], None]:
        """Looks at the hold-out at the end of each epoch, writes it down, and hands progress on."""
        held_out = resident(self.source.split("calibrate"))

        def tell(progress: Progress) -> None:
            accuracy = self._accuracy(progress.net, held_out) if progress.ends_epoch else None
            if accuracy is not None:
                lines.append(_line(progress, accuracy))
                self._write_metrics(lines)
                events.write(lines[-1])
            if report is not None:
                report(progress, accuracy)

        return tell

    def _accuracy(self, net: MultiExitNet, held_out: Samples) -> tuple[float, ...]:
        """Top-1 of each exit, (K,)."""
        _, correct = collect_scores(net.eval(), held_out, self.source.preprocessing, ThisExit(), device=self.device)
        return tuple(correct.mean(axis=1).tolist())

    def _write_environment(self) -> None:
        machine = describe_machine(self.device) | {"packages": describe_packages()}
        write_json(self.out / ENVIRONMENT, {"data": self.source.name, **machine})

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
        # A module of one's own that exits were attached to is in no file.
        classifier = load(model, backbone=net if net.structure else None)
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


def _line(progress: Progress, accuracy: tuple[float, ...]) -> dict[str, Any]:
    """What is kept of an epoch."""
    return {
        "epoch": round(progress.epoch), "step": progress.step, "seconds": round(progress.seconds, 1),
        "images_per_s": round(progress.images_per_s, 1), "losses": progress.losses, "calibrate_top1": accuracy,
    }  # fmt: skip
