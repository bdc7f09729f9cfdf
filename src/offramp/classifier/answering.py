"""From decoded images to predictions, in whichever way was asked for."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.classifier.intake import Intake
from offramp.classifier.measuring import Measuring
from offramp.classifier.running import Running
from offramp.decide.policies import ExitPolicy
from offramp.engine.budgeted import run_budgeted
from offramp.engine.stage_queues import run_queued
from offramp_runtime.checks import check_plan
from offramp_runtime.plan import ExitPlan
from offramp_runtime.predictions import Predictions


class Answering:
    """Gives images to what computes.

    Args:
        running: what computes.
        intake: makes images what it takes.
        measuring: knows where a batch that has become smaller is worth regrouping.
        identity: of the model, which plans must belong to.
    """

    def __init__(self, running: Running, intake: Intake, measuring: Measuring, identity: Callable[[], str]) -> None:
        self._running, self._intake, self._measuring, self._identity = running, intake, measuring, identity

    def at_once(
        self, pixels: NDArray[np.uint8], size: int, exit: int | None, plan: ExitPlan | None
    ) -> Iterator[Predictions]:
        """Of each ``size`` images (N, H, W, C): by the plan, else all straight to an exit, by default the last.

        Raises:
            ArtifactError: the plan was made for another model.
        """
        pieces = self._intake.pieces([pixels], size)
        if plan is None:
            return self._straight(exit, pieces)
        policy, regroup = self._policy(plan), self._measuring.regroup(min(len(pixels), size))
        runtime = self._running.runtime
        return (answered(*run_budgeted(runtime, piece, policy, regroup=regroup)) for piece in pieces)

    def streamed(
        self,
        batches: Iterable[NDArray[np.uint8]],
        size: int,
        exit: int | None,
        plan: ExitPlan | None,
        window: int | None,
    ) -> Iterator[Predictions]:
        """The same of any number; under a plan, those that go on wait at each stage until a full batch is there.

        Raises:
            ArtifactError: the plan was made for another model.
        """
        pieces = self._intake.pieces(batches, size)
        if plan is None:
            return self._straight(exit, pieces)
        queued = run_queued(self._running.runtime, pieces, self._policy(plan), batch_size=size, window=window)
        return (answered(*part) for part in queued)

    def _straight(self, exit: int | None, pieces: Iterable[Tensor]) -> Iterator[Predictions]:
        runtime = self._running.runtime
        k = runtime.num_exits - 1 if exit is None else exit
        for piece in pieces:
            with torch.inference_mode():
                logits = runtime.direct(k, piece)
            yield answered(logits, torch.full((len(piece),), k))

    def _policy(self, plan: ExitPlan) -> ExitPolicy:
        check_plan(plan, self._identity(), self._running.machine)
        return plan.policy


def opened(plan: ExitPlan | str | Path | None) -> ExitPlan | None:
    """The plan, where it is given as a file's.

    Raises:
        ArtifactError: the file cannot be read.
    """
    return ExitPlan.load(Path(plan)) if isinstance(plan, str | Path) else plan


def joined(answers: Iterable[Predictions], report: Callable[[int], None] | None) -> Predictions:
    """All of them; ``report`` is told how many images are answered after each part."""
    parts, done = [], 0
    for part in answers:
        parts.append(part)
        done += len(part)
        if report is not None:
            report(done)
    return Predictions.join(parts)


def answered(logits: Tensor, exits: Tensor) -> Predictions:
    """Logits (N, C) and exits (N,) on any device, as predictions."""
    return Predictions.at(logits.float().cpu().numpy(), exits.cpu().numpy())
