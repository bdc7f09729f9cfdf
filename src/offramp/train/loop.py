"""The training loop: feed, augment, step, average, look, save."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from offramp.data.order import steps_per_epoch
from offramp.data.preprocess import Preprocessing
from offramp.data.source import Samples
from offramp.data.workers import Workers
from offramp.errors import ArtifactError, ConfigError, DataError, InterruptedRunError, TrainingError
from offramp.measure.macs import staged_macs
from offramp.nets.base import MultiExitNet
from offramp.train.average import Average
from offramp.train.checkpoint import Checkpoints
from offramp.train.feed import Batch, open_feed
from offramp.train.groups import finite, frozen_modules, parameter_groups, train_mode
from offramp.train.guard import StopSignals
from offramp.train.loss import exit_weights
from offramp.train.prepare import prepare
from offramp.train.recipe import Recipe
from offramp.train.schedule import learning_rate
from offramp.train.step import Step

Net = TypeVar("Net", bound=nn.Module)

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


class Trainer:
    """A run in progress: network, optimiser and average, advanced step by step.

    Args:
        net: freshly built or fine-tuned; it is trained in place, on ``device``.
        recipe: the values of the run.
        samples: training images.
        preprocessing: statistics and size of the images.
        device: where everything happens.
        workers: processes that decode, where the images do not fit into memory or each is augmented by itself.
    """

    def __init__(
        self,
        net: MultiExitNet,
        recipe: Recipe,
        samples: Samples,
        preprocessing: Preprocessing,
        device: torch.device,
        workers: Workers | None = None,
    ) -> None:
        self.recipe, self.preprocessing, self.device = recipe, preprocessing, device
        _check_batches(recipe, len(samples))
        if recipe.lighting and preprocessing.channels != 3:
            raise ConfigError(
                f"lighting={recipe.lighting}: shifts the colours of RGB images, and these are grey; set it to 0"
            )
        costs = staged_macs(net).at_exit
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.net = net.to(device).to(memory_format=layout)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            parameter_groups(net, recipe), recipe.learning_rate, recipe.momentum,
            weight_decay=recipe.weight_decay, nesterov=recipe.nesterov, fused=True,
        )  # fmt: skip
        self.average = Average(self.net, recipe.ema_decay) if recipe.ema_decay else None
        self._do = Step(self.net, self.optimizer, exit_weights(recipe, costs).to(device), recipe)
        self._frozen = frozen_modules(net, recipe.freeze)
        self._feed = open_feed(samples, recipe, preprocessing, workers or Workers(), device)
        self._batches: Iterator[Batch] | None = None
        self.steps_per_epoch = steps_per_epoch(len(samples), recipe.batch_size, recipe.drop_last)
        self.total_steps = self.steps_per_epoch * recipe.epochs
        self.step = 0
        self.seconds = 0.0
        self.untold: tuple[float, ...] = ()
        """Losses of an epoch's last step, until the end of the epoch is reported."""

    @property
    def result(self) -> MultiExitNet:
        """The network as it would be kept now."""
        net = self.net if self.average is None else self.average.module
        assert isinstance(net, MultiExitNet)
        return net

    def advance(self) -> Tensor:
        """Do the next step; returns its losses (K,), on the device.

        Raises:
            DataError: the images of the step cannot be had; nothing has changed.
        """
        if self._batches is None:
            self._batches = self._feed.batches(self.step, self.total_steps)
        batch = next(self._batches)
        images, targets = prepare(batch, self.recipe, self.preprocessing, self.net.config.num_classes)
        rate = learning_rate(self.recipe, self.step, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        train_mode(self.net, self._frozen)
        losses = self._do(images, targets)
        if self.average is not None:
            self.average.update()
        self.step += 1
        return losses

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {
            "recipe": self.recipe.to_json(),
            "step": self.step,
            "seconds": self.seconds,
            "untold": self.untold,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._do.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ArtifactError: it belongs to another recipe.
        """
        ours = self.recipe.to_json()
        other = [name for name, value in ours.items() if state["recipe"].get(name) != value]
        if other:
            raise ArtifactError(
                f"the checkpoint was made with another {', '.join(other)}; resume with the same settings"
            )
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._do.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step, self.seconds, self.untold = state["step"], state["seconds"], state["untold"]
        self._batches = None


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
            speed = (trainer.step - first) * trainer.recipe.batch_size / spent if spent else 0.0
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


def _check_batches(recipe: Recipe, count: int) -> None:
    last = count % recipe.batch_size
    if count < 2 or (last == 1 and not (recipe.drop_last and count > recipe.batch_size)):
        raise ConfigError(
            f"batch_size={recipe.batch_size}: leaves a last batch of one of {count} images, which batch norm "
            "cannot train on; choose another, or drop_last=true"
        )


def build_seeded(build: Callable[[], Net], seed: int) -> Net:
    """Build a network whose initial weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
