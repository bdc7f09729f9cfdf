"""Models with random weights, opened as users open theirs."""

import sys
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import offramp
from limits import lacks
from offramp.classifier import Classifier
from offramp.classifier.folder import INT8
from offramp.classifier.quantised import quantise_with
from offramp.data.preprocess import Preprocessing
from offramp.errors import OfframpError
from offramp.nets.base import MultiExitNet, NetConfig
from offramp.nets.msdnet import VARIANTS, MSDNetConfig
from offramp.runtimes import DirectRuntime

RUNTIMES = ("eager", "compiled", "native", "onnx", "openvino")
QUICK = ("eager", "native", "onnx", "openvino")
"""Without what takes many minutes to prepare where it has not been prepared before."""
IMAGES = 8
"""Random ones, to give norms and 8-bit numbers their ranges."""

_PLACE = TemporaryDirectory(prefix="offramp-benchmark-")


class Opened:
    """The runtimes that can be had here, by name and precision, and why others cannot.

    Args:
        config: which network, with random weights.
        names: of runtimes.
        precisions: to try each in.
        threads: that compute one call.
    """

    def __init__(self, config: NetConfig, names: Iterable[str], precisions: Iterable[str], threads: int = 1) -> None:
        self.config = config
        self.runtimes: dict[tuple[str, str], DirectRuntime[Any]] = {}
        self._reasons: dict[str, list[str]] = {}
        for precision in precisions:
            reasons = self._reasons[precision] = [lacking] if (lacking := lacks(precision)) else []
            for name in () if reasons else names:
                began = time.perf_counter()
                try:
                    self.runtimes[name, precision] = open_runtime(config, name, precision, threads)
                except OfframpError as error:
                    reasons.append(str(error))
                print(f"{name} {precision}: opened in {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)

    def graph(self, precision: str) -> Path | None:
        """The file of the network's graph in a precision that only a file can have; None in others."""
        there = precision == "int8" and any(kind == precision for _, kind in self.runtimes)
        return model_folder(self.config, quantised=True) / INT8 if there else None

    def reason(self, precision: str) -> str:
        """Why there is no runtime of this precision."""
        return "; ".join(dict.fromkeys(self._reasons.get(precision, ()))) or "not asked for"


def open_runtime(config: NetConfig, name: str, precision: str = "fp32", threads: int = 1) -> DirectRuntime[Any]:
    """A network with random weights in a runtime.

    Raises:
        OfframpError: the runtime is not installed, or has no such precision here.
    """
    folder = model_folder(config, quantised=precision == "int8")
    return offramp.load(folder, runtime=name, precision=precision, threads=threads).runtime


@cache
def model_folder(config: NetConfig, *, quantised: bool = False) -> Path:
    """A model folder with random weights that stays until the process ends.

    Args:
        config: which network.
        quantised: whether precision int8 can be had, with ranges seen on random images: good for its speed only.
    """
    folder = Path(_PLACE.name) / str(len(list(Path(_PLACE.name).iterdir())))
    preprocessing = Preprocessing(config.image_size, (0.5,) * config.image_channels, (0.25,) * config.image_channels)
    classes = tuple(map(str, range(config.num_classes)))
    classifier = Classifier(random_net(config), classes, preprocessing)
    classifier.save(folder)
    if quantised:
        quantise_with(classifier, [random_images(config, IMAGES).numpy()], folder / INT8)
    return folder


def config_of(variant: str, image_size: int | None = None) -> MSDNetConfig:
    """A named MSDNet, for images of another size where given."""
    config = VARIANTS[variant]
    return config if image_size is None else config.replace(image_size=image_size)


def random_net(config: NetConfig) -> MultiExitNet:
    """The network in eval mode; the same one every time."""
    torch.manual_seed(0)
    net = config.build()
    shake_norms(net, config)
    return net


def random_images(config: NetConfig, count: int) -> Tensor:
    """Normalised, (N, C, H, W)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, config.image_channels, config.image_size, config.image_size, generator=generator)


@torch.no_grad()
def shake_norms(net: nn.Module, config: NetConfig) -> None:
    """Give norms random weights and the statistics of some images, as after training; eval mode from then on.

    Fresh ones let activations drift towards nothing or everything, where arithmetic may be slower and answers are alike.
    """
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.5, 0.5)
            module.momentum = 1.0
    net.train()(random_images(config, IMAGES))
    net.eval()


def run_staged(runtime: DirectRuntime[Any], images: Tensor, k: int) -> list[Tensor]:
    """Logits (N, C) of exits 0 … k, one stage after the other."""
    state = runtime.start(images)
    answers = []
    for stage in range(k + 1):
        state, logits = runtime.step(stage, state)
        answers.append(logits)
    return answers
