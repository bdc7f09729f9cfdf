"""Training on 64 tiny images: one bright quarter each, in one of three places."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offramp.data.preprocess import Preprocessing
from offramp.data.source import Split
from offramp.data.workers import Workers
from offramp.nets.base import MultiExitNet
from offramp.nets.msdnet import MSDNetConfig
from offramp.train.checkpoint import Checkpoints
from offramp.train.guard import StopSignals
from offramp.train.recipe import Recipe
from offramp.train.step import Step
from offramp.train.trainer import Trainer, build_seeded
from tiny import Clock

CONFIG = MSDNetConfig(
    exits=2, base=1, step=1, channels=4, growth_rate=2, scale_factors=(1, 2), bottleneck_factors=(1, 2),
    image_channels=1, image_size=8, num_classes=3,
)  # fmt: skip
PREPROCESSING = Preprocessing(8, (0.25,), (0.4,))
RECIPE = Recipe(
    variant="tiny",
    source="quarters",
    epochs=2,
    batch_size=16,
    learning_rate=0.05,
    warmup_epochs=0.5,
    crop_pad=1,
    flip=False,
)
CPU = torch.device("cpu")


def quarters(count: int = 64) -> Split:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, count)
    images = draw.integers(0, 60, (count, 8, 8, 1), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 150
    return Split(images, labels.astype(np.int64))


def tiny_net(seed: int = 0) -> MultiExitNet:
    net = build_seeded(CONFIG.build, seed)
    assert isinstance(net, MultiExitNet)
    return net


def trainer_for(recipe: Recipe, split: Split | None = None, net: MultiExitNet | None = None) -> Trainer:
    return Trainer(net or tiny_net(), recipe, split or quarters(), PREPROCESSING, CPU, Workers(0))


def same_weights(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def changed(**changes: Any) -> Recipe:
    return dataclasses.replace(RECIPE, **changes)


def stored(checkpoints: Checkpoints) -> dict[str, Any]:
    """The last state, which is sound."""
    said: list[str] = []
    state = checkpoints.load(said.append)
    assert said == []
    return state


def received(number: int | None) -> StopSignals:
    signals = StopSignals()
    signals.received = number
    return signals


def slow_steps(patch: pytest.MonkeyPatch) -> Clock:
    """Every step takes 0.4 s, and nothing else takes any time."""
    clock, plain = Clock(), Step.__call__

    def slow(self: Step, images: Tensor, targets: Tensor) -> Tensor:
        clock.pass_ms(400)
        return plain(self, images, targets)

    patch.setattr(Step, "__call__", slow)
    patch.setattr("offramp.train.loop.time.perf_counter", clock)
    patch.setattr("offramp.train.loop.time.monotonic", clock)
    return clock
