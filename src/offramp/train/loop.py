"""The training loop: order, augment, step, average, save."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from offramp.data.augment import draws, pad_crop_flip
from offramp.data.preprocess import Preprocessing
from offramp.data.source import Split
from offramp.errors import ArtifactError, ConfigError
from offramp.nets.base import MultiExitNet
from offramp.train.checkpoint import load_checkpoint, save_checkpoint
from offramp.train.loss import exit_losses, exit_weights
from offramp.train.recipe import Recipe
from offramp.train.schedule import learning_rate

Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step."""

    step: int
    total_steps: int
    steps_per_epoch: int
    losses: tuple[float, ...]
    """Of the last measured step, per exit, (K,)."""
    seconds: float
    """Spent on steps since the run began, interruptions left out."""
    images_per_s: float
    """Over these seconds."""
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


def train_step(
    forward: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    weights: Tensor,
    recipe: Recipe,
) -> Tensor:
    """One step of Σ w_k·CE_k on normalised images (N, C, H, W) and labels (N,); returns the losses (K,)."""
    optimizer.zero_grad(set_to_none=True)
    with _precision(recipe, images.device):
        logits = forward(images)
    losses = exit_losses(logits, labels, recipe.label_smoothing)
    (losses * weights).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return losses.detach()


class Trainer:
    """A run in progress: network, optimiser and average, advanced step by step.

    Args:
        net: freshly built network; it is trained in place, on ``device``.
        recipe: the values of the run.
        split: training images, moved to ``device`` as uint8.
        preprocessing: statistics of the data set.
        device: where everything happens.
    """

    def __init__(
        self, net: MultiExitNet, recipe: Recipe, split: Split, preprocessing: Preprocessing, device: torch.device
    ) -> None:
        self.recipe, self.preprocessing, self.device = recipe, preprocessing, device
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.net = net.to(device).to(memory_format=layout)  # type: ignore[call-overload]
        self.forward = torch.compile(self.net) if recipe.compile else self.net
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), recipe.learning_rate, recipe.momentum,
            weight_decay=recipe.weight_decay, nesterov=recipe.nesterov,
        )  # fmt: skip
        self.average = (
            AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)  # type: ignore[no-untyped-call]
            if recipe.ema_decay
            else None
        )
        self.weights = exit_weights(recipe.loss_weights, net.num_exits).to(device)
        self.images = torch.from_numpy(split.images).to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        batches = len(split) / recipe.batch_size
        if not recipe.drop_last and len(split) % recipe.batch_size == 1:
            raise ConfigError(
                f"batch_size={recipe.batch_size}: leaves a last batch of one of {len(split)} images, which batch norm "
                "cannot train on; choose another, or drop_last=true"
            )
        self.steps_per_epoch = max(1, int(batches) if recipe.drop_last else int(np.ceil(batches)))
        self.total_steps = self.steps_per_epoch * recipe.epochs
        self.step = 0
        self.seconds = 0.0
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    @property
    def result(self) -> MultiExitNet:
        """The network as it would be kept now."""
        net = self.net if self.average is None else self.average.module
        assert isinstance(net, MultiExitNet)
        return net

    def advance(self) -> Tensor:
        """Do the next step; returns its losses (K,)."""
        epoch, place = divmod(self.step, self.steps_per_epoch)
        images, labels = self._batch(epoch, place)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                self.step,
                peak=self.recipe.learning_rate,
                warmup_steps=round(self.recipe.warmup_epochs * self.steps_per_epoch),
                total_steps=self.total_steps,
            )
        self.net.train()
        losses = train_step(self.forward, self.optimizer, images, labels, self.weights, self.recipe)
        if self.average is not None:
            self.average.update_parameters(self.net)
        self.step += 1
        return losses

    def _batch(self, epoch: int, place: int) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((recipe.seed, epoch)).permutation(len(self.labels))
        rows = torch.from_numpy(self._order[1][place * recipe.batch_size : (place + 1) * recipe.batch_size]).to(
            self.device
        )
        images = self.images[rows]
        if recipe.crop_pad or recipe.flip:
            random = draws(recipe.seed, epoch, rows, 3)
            fill = self.preprocessing.fill
            images = pad_crop_flip(images, random, pad=recipe.crop_pad, flip=recipe.flip, fill=fill)
        return self.preprocessing.normalize(images), self.labels[rows]

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {
            "recipe": self.recipe.to_json(),
            "step": self.step,
            "seconds": self.seconds,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ArtifactError: it is damaged or belongs to another recipe.
        """
        state = load_checkpoint(path)
        ours = self.recipe.to_json()
        other = [name for name, value in ours.items() if state["recipe"].get(name) != value]
        if other:
            raise ArtifactError(f"{path}: was made with another {', '.join(other)}; resume with the same settings")
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step, self.seconds = state["step"], state["seconds"]


def fit(
    trainer: Trainer, checkpoint: Path | None = None, report: Callable[[Progress], None] | None = None
) -> MultiExitNet:
    """Run to the end; returns the network to keep, in eval mode.

    Args:
        trainer: fresh or restored.
        checkpoint: file rewritten at the end of each epoch.
        report: told of the first step, then about once a second, and at the end of each epoch.
    """
    told = 0.0
    while trainer.step < trainer.total_steps:
        began = time.perf_counter()
        losses = trainer.advance()
        ends_epoch = trainer.step % trainer.steps_per_epoch == 0
        due = report is not None and (ends_epoch or began - told > 1)
        values = tuple(losses.tolist()) if due else ()  # looking at them makes a GPU wait
        trainer.seconds += time.perf_counter() - began
        if ends_epoch and checkpoint is not None:
            save_checkpoint(checkpoint, trainer.state())
        if report is not None and due:
            report(_progress(trainer, values))
            told = time.perf_counter()
    return trainer.result.eval()


def _progress(trainer: Trainer, losses: tuple[float, ...]) -> Progress:
    speed = trainer.step * trainer.recipe.batch_size / trainer.seconds
    steps = trainer.step, trainer.total_steps, trainer.steps_per_epoch
    return Progress(*steps, losses, trainer.seconds, speed, trainer.result)


def _precision(recipe: Recipe, device: torch.device) -> contextlib.AbstractContextManager[object]:
    if recipe.precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def build_seeded(build: Callable[[], Net], seed: int) -> Net:
    """Build a network whose initial weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
