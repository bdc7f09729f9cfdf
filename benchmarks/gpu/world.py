"""The small world in which each GPU path is tried once: two exits, images made on the spot."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offramp.catalog import entries
from offramp.classifier import Classifier
from offramp.data.holdout import Holdout
from offramp.data.preprocess import Preprocessing
from offramp.data.source import Part, Source, SourceSpec, Split
from offramp.errors import OfframpError
from offramp.nets.msdnet import MSDNetConfig
from offramp.train.recipe import Recipe
from offramp.train.trainer import Trainer, build_seeded

CLASSES = ("red", "green", "blue", "grey")
PREPROCESSING = Preprocessing(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
# Small also because a GPU takes about a thousand launches in advance, and a whole step has to be among them.
CONFIG = MSDNetConfig(exits=2, base=1, step=1, channels=8, growth_rate=4, num_classes=len(CLASSES))
VARIANT = "gpu-check"
RECIPE = Recipe(variant=VARIANT, source="colours", epochs=50, batch_size=16, learning_rate=0.05, crop_pad=4)


class WrongError(OfframpError):
    """A path ran and gave something wrong."""


class NotHereError(OfframpError):
    """A path that needs CUDA, on a machine without."""


@dataclass(frozen=True)
class World:
    """Where paths are tried."""

    device: torch.device
    folder: Path
    """For files."""

    def trainer(self, device: torch.device | None = None, **changes: Any) -> Trainer:
        """Of 64 images in batches of 16, with what is changed in the recipe."""
        recipe = replace(RECIPE, **changes)
        net = build_seeded(CONFIG.build, recipe.seed)
        return Trainer(net, recipe, colours(64), PREPROCESSING, device or self.device)

    def classifier(self, device: torch.device | None = None) -> Classifier:
        """Calibrated, with a little training behind it, on the device."""
        trainer = self.trainer(torch.device("cpu"))
        for _ in range(12):
            trainer.advance()
        classifier = Classifier(trainer.result, CLASSES, PREPROCESSING)
        classifier.net.to(device or self.device)
        classifier.calibrate(source())
        return classifier


def colours(count: int, seed: int = 0) -> Split:
    """Images of one colour in the main, under noise, labelled by it; some are hard."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    images = draw.integers(60, 160, (count, 32, 32, 3))
    strength = draw.integers(0, 80, count)
    for row, label in enumerate(labels):
        images[row, ..., label if label < 3 else slice(None)] += strength[row]
    return Split(images.clip(0, 255).astype(np.uint8), labels.astype(np.int64))


def source() -> Source:
    """The images as a data set."""

    def read(_root: Path | None, part: Part) -> Split:
        return colours(64, seed=2) if part == "test" else colours(96)

    return SourceSpec("colours", CLASSES, PREPROCESSING, holdout=32, needs_root=False, read=read).open(
        None, Holdout(RECIPE.holdout_seed)
    )


def register() -> None:
    """Let a run find the small network by name."""
    entries("nets", "VARIANTS")[VARIANT] = CONFIG


def expect(holds: bool | Tensor, otherwise: str) -> None:
    """Say what is wrong unless it holds."""
    if not holds:
        raise WrongError(otherwise)


def need_cuda(world: World) -> None:
    """End a path that means nothing elsewhere."""
    if world.device.type != "cuda":
        raise NotHereError("needs CUDA")


def worst(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference between two sets of tensors."""
    return max(float((one[name].double().cpu() - other[name].double().cpu()).abs().max()) for name in one)


Trial = Callable[[World], str]
"""Tries one thing and returns what is worth knowing of it."""
