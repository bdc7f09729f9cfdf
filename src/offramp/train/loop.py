"""The training loop: step, look, tell, save."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offramp.errors import DataError, InterruptedRunError, TrainingError
from offramp.nets.base import MultiExitNet
from offramp.train.checkpoint import Checkpoints
from offramp.train.groups import finite
from offramp.train.guard import StopSignals
from offramp.train.trainer import Trainer

_LOOK_S = 1.0
"""How often losses are looked at, which makes a GPU wait."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step."""

    step: int
    total_steps: int
    steps_per_epoch: int
    losses: tuple[float, ...]
    """Of this step, per exit, (K,)."""
    seconds: float
    """Spent on steps since the run began, interruptions left out."""
    images_per_s: float
    """Over the steps of this process."""
    net: MultiExitNet
    """The network as it would be kept now (the average, where one is kept)."""

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.step / self.steps_per_epoch

    @property
    def ends_epoch(self) -> bool:
        """Whether this step was the last of an epoch."""
        return self.step % self.steps_per_epoch == 0


class Keeper:
    """Saves a run's state, and never one that is spoilt.

    Args:
        trainer: whose state it is.
        checkpoints: where it goes; None keeps nothing.
        extra: more values to save.
        every_s: seconds between checkpoints inside an epoch.
    """

    def __init__(
        self,
        trainer: Trainer,
        checkpoints: Checkpoints | None,
        extra: Callable[[], dict[str, Any]] = dict,
        every_s: float = 600,
    ) -> None:
        self._trainer, self._checkpoints, self._extra, self._every_s = trainer, checkpoints, extra, every_s
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is old."""
        return time.monotonic() - self._saved > self._every_s

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            TrainingError: weights are no longer numbers.
            ArtifactError: it cannot be written; those before it are untouched.
        """
        if self._checkpoints is None:
            return
        if not finite(self._trainer.net):
            raise TrainingError(
                f"weights are not numbers any more after step {self._trainer.step}; "
                "lower learning_rate and resume from the last checkpoint or start anew"
            )
        self._checkpoints.save({**self._trainer.state(), **self._extra()}, self._trainer.step)
        self._saved = time.monotonic()


def fit(
    trainer: Trainer,
    keeper: Keeper | None = None,
    report: Callable[[Progress], None] | None = None,
    signals: StopSignals | None = None,
) -> MultiExitNet:
    """Run to the end; returns the network to keep, in eval mode.

    Args:
        trainer: fresh or restored.
        keeper: asked to save at the end of each epoch, when a checkpoint is due, and before leaving early.
        report: told of the first step, then about once a second, and at the end of each epoch before it is saved; told
            anew after a restart where it failed there.
        signals: looked at after each step.

    Raises:
        TrainingError: a loss is not a number.
        DataError: images cannot be had any more; the state so far is saved.
        InterruptedRunError: a signal came; the state so far is saved.
    """
    keeper = keeper or Keeper(trainer, None)
    seen: list[Tensor] = []
    looked, first, spent = 0.0, trainer.step, 0.0

    def tell(values: tuple[float, ...]) -> None:
        if report is not None:
            speed = (trainer.step - first) * trainer.images_per_step / spent if spent else 0.0
            steps = trainer.step, trainer.total_steps, trainer.steps_per_epoch
            report(Progress(*steps, values, trainer.seconds, speed, trainer.result))
        trainer.untold = ()

    with _saved_without_images(trainer, keeper, seen, signals):
        if trainer.untold:
            tell(trainer.untold)
            keeper.save()
        while trainer.step < trainer.total_steps:
            began = time.perf_counter()
            seen.append(trainer.advance())
            ends_epoch = trainer.step % trainer.steps_per_epoch == 0
            stop = None if signals is None else signals.received
            look = ends_epoch or stop is not None or keeper.due or began - looked > _LOOK_S
            values = _check_losses(trainer, seen) if look else ()
            took = time.perf_counter() - began
            trainer.seconds, spent = trainer.seconds + took, spent + took
            if not look:
                continue
            trainer.untold = values if ends_epoch else ()
            tell(values)
            if ends_epoch or stop is not None or keeper.due:
                keeper.save()
            if stop is not None and trainer.step < trainer.total_steps:
                raise _stopped(trainer, stop)
            looked = time.perf_counter()
    return trainer.result.eval()


@contextlib.contextmanager
def _saved_without_images(
    trainer: Trainer, keeper: Keeper, seen: list[Tensor], signals: StopSignals | None
) -> Iterator[None]:
    """Save the state when images cannot be had; a signal to the workers too may be why, and then it is what is told."""
    try:
        yield
    except DataError:
        _check_losses(trainer, seen)
        keeper.save()
        if signals is not None and signals.received is not None:
            raise _stopped(trainer, signals.received) from None
        raise
    finally:
        trainer.close()


def _stopped(trainer: Trainer, number: int) -> InterruptedRunError:
    return InterruptedRunError(f"stopped after step {trainer.step}; go on with --resume", number)


def _check_losses(trainer: Trainer, seen: list[Tensor]) -> tuple[float, ...]:
    """The newest losses; all since the last look are looked at in one go, then forgotten."""
    if not seen:
        return ()
    losses = torch.stack(seen).cpu()
    wrong = (~losses.isfinite()).nonzero().tolist()
    if wrong:
        place, k = wrong[0]
        raise TrainingError(
            f"the loss of exit {k} is {losses[place, k].item()} at step {trainer.step - len(seen) + place + 1}; the last "
            "good checkpoint is kept: lower learning_rate, or set clip_norm or another precision, and start anew"
        )
    seen.clear()
    return tuple(losses[-1].tolist())
