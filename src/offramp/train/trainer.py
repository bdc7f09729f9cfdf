"""A run in progress, advanced step by step."""

import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from offramp.data.order import steps_per_epoch
from offramp.data.preprocess import Preprocessing
from offramp.data.source import Samples
from offramp.data.workers import Workers
from offramp.errors import ArtifactError, ConfigError
from offramp.measure.macs import staged_macs
from offramp.nets.base import MultiExitNet
from offramp.nets.layers import draws, skips_blocks
from offramp.nets.pruning import condense, group_lasso, learned_convs
from offramp.train.average import Average
from offramp.train.feed import Batch, open_feed
from offramp.train.groups import frozen_modules, parameter_groups, train_mode
from offramp.train.loss import exit_weights
from offramp.train.prepare import prepare
from offramp.train.recipe import DEFAULTS, Recipe
from offramp.train.schedule import learning_rate
from offramp.train.step import Step

Net = TypeVar("Net", bound=nn.Module)


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
        _check_network(recipe, net)
        weights = exit_weights(recipe, costs).to(device)
        self._do = Step(self.net, self.optimizer, weights, recipe, *((self._lasso,) if recipe.group_lasso else ()))
        self._draws = draws(net)
        self._frozen = frozen_modules(net, recipe.freeze)
        self._feed = open_feed(samples, recipe, preprocessing, workers or Workers(), device)
        self._batches: Generator[Batch] | None = None
        self._count = len(samples)
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
        condense(self.net, self._progress(), since=max(0, self.step - 1) / self.total_steps)
        with self._own_dice():
            losses = self._do(images, targets)
        if self.average is not None:
            self.average.update()
        self.step += 1
        return losses

    @contextlib.contextmanager
    def _own_dice(self) -> Iterator[None]:
        """Let what a network draws in a step depend on seed and step alone, so that a resumed run draws the same."""
        if not self._draws:
            yield
            return
        devices = [] if self.device.type == "cpu" else [self.device]
        with torch.random.fork_rng(devices):
            torch.manual_seed(((self.recipe.seed << 32) + self.step) % (1 << 63))
            yield

    def _progress(self) -> float:
        """Share of the run that is done."""
        return self.step / self.total_steps

    def _lasso(self) -> Tensor:
        return self.recipe.group_lasso * group_lasso(self.net, self._progress())

    @property
    def images_per_step(self) -> int:
        """Images of a whole batch."""
        return min(self.recipe.batch_size, self._count)

    def close(self) -> None:
        """Let workers go; the next step would start others."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

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
        # A field that a checkpoint of an earlier release lacks had no other value than its default then.
        theirs: dict[str, Any] = DEFAULTS | state["recipe"]
        other = [f"{name}={theirs.get(name)}, not {value}" for name, value in ours.items() if theirs.get(name) != value]
        if other:
            raise ArtifactError(f"the checkpoint was made with {'; '.join(other)}: resume with the same settings")
        try:
            self.net.load_state_dict(state["net"])
        except RuntimeError:
            raise ArtifactError(
                "the checkpoint holds another network; resume with the same data and settings"
            ) from None
        self.optimizer.load_state_dict(state["optimizer"])
        self._do.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step, self.seconds, self.untold = state["step"], state["seconds"], state["untold"]
        self._batches = None


def _check_network(recipe: Recipe, net: nn.Module) -> None:
    if recipe.group_lasso and not learned_convs(net):
        raise ConfigError(f"group_lasso={recipe.group_lasso}: this network learns no groups; set it to 0")
    if recipe.compile and skips_blocks(net):
        raise ConfigError(
            "compile=true: this network skips blocks by chance, for which there is no code; set it to false"
        )


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
