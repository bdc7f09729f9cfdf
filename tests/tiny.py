"""A whole small world: a data set, a network and a recipe that train in a moment, and a clock that waits for nobody."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from offramp.catalog import entries
from offramp.classifier import Classifier
from offramp.classifier.identity import Storage
from offramp.cli.main import main
from offramp.data.holdout import Holdout
from offramp.data.preprocess import Preprocessing
from offramp.data.source import Source, SourceSpec, Split, SplitName
from offramp.data.workers import Workers
from offramp.decide.calibration import Calibration
from offramp.measure.latency import StageTimes
from offramp.nets.msdnet import MSDNet, MSDNetConfig
from offramp.train.recipe import Recipe
from offramp.train.run import Run
from offramp.train.start import source_of
from offramp_runtime.latency_table import LatencyTable
from offramp_runtime.stage_clock import StageClock
from offramp_runtime.stage_table import Setting

CLASSES = ("left", "right", "top", "bottom")
PREPROCESSING = Preprocessing(16, (0.4,), (0.25,))
CONFIG = MSDNetConfig(
    exits=3, base=1, step=1, spacing="linear", channels=4, growth_rate=2, image_channels=1, image_size=16, num_classes=4
)
RECIPE = Recipe(
    variant="tiny", source="halves", epochs=1, batch_size=16, learning_rate=0.1, warmup_epochs=0, crop_pad=1, flip=False
)
FINETUNE = replace(RECIPE, variant="", source="", batch_size=8)
_HALVES = (np.s_[:, :8], np.s_[:, 8:], np.s_[:8], np.s_[8:])


def read_halves(_root: Path | None, part: Literal["train", "test"]) -> Split:
    """Noise of which one half is brighter: easy, but not trivially so."""
    count = 96 if part == "train" else 48
    draw = np.random.default_rng(len(part))
    images = draw.integers(0, 160, (count, 16, 16, 1)).astype(np.uint8)
    labels = np.arange(count) % 4
    for image, label in zip(images, labels, strict=True):
        image[_HALVES[label]] += np.uint8(draw.integers(20, 90))
    return Split(images, labels.astype(np.int64))


HALVES = SourceSpec("halves", CLASSES, PREPROCESSING, holdout=32, needs_root=False, read=read_halves)
OTHER_CLASSES = SourceSpec(
    "others", ("a", "b", "c"), PREPROCESSING, holdout=32, needs_root=False, read=read_halves
)  # fmt: skip


def install(patch: pytest.MonkeyPatch) -> None:
    """Put the small world into the catalog, under names that only tests know; the demo runs there too."""
    patch.setitem(entries("data", "SOURCES"), "halves", HALVES)
    patch.setitem(entries("data", "SOURCES"), "others", OTHER_CLASSES)
    patch.setitem(entries("nets", "VARIANTS"), "tiny", CONFIG)
    patch.setitem(entries("recipes", "RECIPES"), "halves", RECIPE)
    patch.setitem(entries("recipes", "RECIPES"), "digits", RECIPE)


@cache
def _weights(seed: int) -> dict[str, Tensor]:
    """Random ones, and norms that have seen images: confidences of all sorts, as after training."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        net = MSDNet(CONFIG)
        for _ in range(8):
            net(torch.randn(32, 1, 16, 16))
    weights = net.state_dict()
    return {name: 4 * weight if name.endswith("linear.weight") else weight for name, weight in weights.items()}


def make_net(seed: int = 0) -> MSDNet:
    """A network that has never been trained but answers as if it had."""
    net = MSDNet(CONFIG)
    net.load_state_dict(_weights(seed))
    return net.eval()


def make_classifier(seed: int = 0, *, calibrated: bool = True, storage: Storage = "fp32") -> Classifier:
    """The classifier of such a network."""
    about = {"source": {"name": "halves", "holdout_seed": 0}}
    calibration = _calibration(seed, storage) if calibrated else None
    return Classifier(make_net(seed), CLASSES, PREPROCESSING, calibration=calibration, storage=storage, about=about)


@cache
def _calibration(seed: int, storage: Storage) -> Calibration:
    return make_classifier(seed, calibrated=False, storage=storage).calibrate(HALVES.open())


def images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Decoded images (N, H, W, C)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 1), np.uint8)


def unlabelled(pixels: NDArray[np.uint8]) -> Split:
    """Images whose labels nobody asks for."""
    return Split(pixels, np.zeros(len(pixels), np.int64))


def decoded(source: Source, name: SplitName) -> Split:
    """A split of a data set that lies in memory."""
    split = source.split(name)
    assert isinstance(split, Split)
    return split


def write_images(folder: Path, count: int) -> list[Path]:
    """The first of :func:`images` as files."""
    paths = [folder / f"image{number}.png" for number in range(count)]
    for path, image in zip(paths, images(count), strict=True):
        Image.fromarray(image[..., 0]).save(path)
    return paths


def open_source(
    recipe: Recipe = RECIPE, data: str | None = None, init: Classifier | None = None, seed: int = 0
) -> Source:
    """The data set of such a training, decoded in this process."""
    spec, preprocessing = source_of(recipe, data, init)
    return spec.open(None, Holdout(seed), preprocessing, Workers(0))


def run_of(
    out: Path, recipe: Recipe = RECIPE, *, data: str | None = None, init: Classifier | None = None, seed: int = 0
) -> Run:
    """A training on the CPU, ready to begin."""
    return Run(recipe, open_source(recipe, data, init, seed), out, torch.device("cpu"), init)


def offramp(*arguments: object) -> int:
    """What the command does, in this process; returns its exit code."""
    return main([str(argument) for argument in arguments])


def stage_times(*ms: float, batch_size: int = 1) -> StageTimes:
    """As if every run had taken just that."""
    return StageTimes(batch_size, tuple((one,) * 3 for one in ms))


def fix_times(patch: pytest.MonkeyPatch, *ms: float) -> None:
    """Let classifiers measure just that for their stages, at any number of images."""

    def measured(_net: object, pixels: Callable[[], Tensor], _repeats: int) -> StageTimes:
        return stage_times(*ms, batch_size=len(pixels()))

    def learnt(
        _run: object,
        num_stages: int,
        confidence: float,
        _seconds: float,
        _clock: object,
        unavoidable: Collection[int],
        rest: object,
    ) -> StageClock:
        del rest
        clock = StageClock(num_stages, confidence, unavoidable)
        for k, one in enumerate((*ms, 0.0)):  # handing the answer over comes after the last stage
            clock.saw(k, one)
        return clock

    def table(_net: object, _images: object, setting: Setting, largest: int) -> LatencyTable:
        nothing = tuple(((1e-9,),) * 2 for _ in ms[1:])
        return LatencyTable(setting, (1, 2 * largest), tuple(((one,),) * 2 for one in ms), nothing, nothing)

    patch.setattr("offramp.classifier.measuring.time_stages", measured)
    patch.setattr("offramp.classifier.tables.measure_latencies", table)
    patch.setattr("offramp.engine.anytime.learn", learnt)


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_ms(self, ms: float) -> None:
        self.now += ms / 1e3


class Clockwork:
    """A runtime without a network: stage k takes ``ms[k]`` on the clock, and the state is the images themselves.

    Logits (N, 2) of exit k are the image's number and k.
    """

    def __init__(self, ms: Sequence[float], clock: Clock | None = None) -> None:
        self.ms = ms
        self.clock = clock or Clock()
        self.ran: list[int] = []

    @property
    def num_exits(self) -> int:
        return len(self.ms)

    def start(self, images: Tensor) -> Tensor:
        return images

    def step(self, k: int, state: Tensor) -> tuple[Tensor, Tensor]:
        self.ran.append(k)
        self.clock.pass_ms(self.ms[k])
        return state, torch.stack([state, torch.full_like(state, k)], dim=1)

    def take(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[rows]

    def join(self, states: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(states))
