"""Reads and writes DenseNet-BC checkpoints of gpleiss/efficient_densenet_pytorch, torchvision and timm.

All three name the weights alike, but for the last norm. The files torchvision once published write ``norm.1`` for ``norm1``.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from offramp.errors import ArtifactError, ConfigError
from offramp.nets.base import MultiExitNet
from offramp.nets.chain import ChainStage, Ordinary
from offramp.nets.dense_layers import DenseLayer, Transition
from offramp.nets.densenet import DenseNet, DenseNetConfig
from offramp.nets.foreign._reading import Hints, Imported, Reader, Shapes, built_empty, dense_blocks, filled, shapes_of
from offramp.nets.foreign._state_dict import open_state_dict
from offramp.nets.foreign._writing import write_state_dict

Style = Literal["efficient", "torchvision"]
SOURCE = "gpleiss/efficient_densenet_pytorch, torchvision or timm"
LAST_NORM: dict[Style, str] = {"efficient": "features.norm_final", "torchvision": "features.norm5"}
_STEM, _CLASSIFIER = "features.conv0.weight", "classifier.weight"
_LEGACY = re.compile(r"(features\.denseblock\d+\.denselayer\d+\.(?:norm|conv))\.([12]\.)")
_LAYER = re.compile(r"features\.denseblock(\d{1,3})\.denselayer(\d{1,3})\.conv2\.weight")


def read(path: Path, *, image_size: int | None = None) -> Imported[DenseNet]:
    """The network of a checkpoint file, with its configuration told from keys and shapes.

    Args:
        path: a bare state dict, or a dict with one; with or without ``module.`` before each key.
        image_size: side in pixels that costs are quoted for; None takes 32, or 224 with the large stem.

    Raises:
        ArtifactError: missing, damaged or unsafe file, another format, or anything missing, left over or of another shape.
        ConfigError: ``image_size`` is too small.
    """
    return _read(path, open_state_dict(path), Hints(image_size))


def write(net: MultiExitNet, path: Path, style: Style = "efficient") -> None:
    """Write a bare state dict that the public code loads into the same network.

    Raises:
        ConfigError: a network that code cannot build: with more than one exit, without bottlenecks, with several growth
            rates; for torchvision also with another stem or reduction than its own.
    """
    if not isinstance(net, DenseNet) or net.num_exits > 1 or net.config.bottleneck_factor == 0:
        raise ConfigError(f"{SOURCE}: has only DenseNets with bottlenecks and one exit; this network is another")
    config = net.config
    if len(set(config.growth_rates)) > 1:
        raise ConfigError(f"growth_rates={config.growth_rates}: {SOURCE} has one growth rate for all blocks")
    for field, theirs in (("stem", "large"), ("reduction", 0.5)) if style == "torchvision" else ():
        if getattr(config, field) != theirs:
            raise ConfigError(
                f"{field}={getattr(config, field)}: torchvision's DenseNets have {theirs}; write it for efficient-densenet"
            )
    state = net.state_dict()
    write_state_dict({theirs: state[our] for our, theirs in _keys(net, LAST_NORM[style]).items()}, path)


def _read(path: Path, found: dict[str, Tensor], hints: Hints) -> Imported[DenseNet]:
    hints.only(SOURCE)
    weights = {_LEGACY.sub(r"\1\2", key): value for key, value in found.items()}
    shapes = shapes_of(weights)
    try:
        net = built_empty(_config(shapes, hints.image_size))
        assert isinstance(net, DenseNet)
        last = next((name for name in LAST_NORM.values() if f"{name}.weight" in shapes), LAST_NORM["efficient"])
        net = filled(net, _keys(net, last), weights, "DenseNet", SOURCE)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from None
    return Imported(net)


READERS = {"densenet-pytorch": Reader(SOURCE, lambda shapes: _STEM in shapes, _read)}
WRITERS = {"efficient-densenet": write, "torchvision": partial(write, style="torchvision")}
"""By whose code loads the file."""


def _config(shapes: Shapes, image_size: int | None) -> DenseNetConfig:
    layers, growth_rates, first = dense_blocks(shapes, _LAYER)
    stem, classifier = shapes.get(_STEM, ()), shapes.get(_CLASSIFIER, ())
    kernels = [shape for key, shape in shapes.items() if re.search(r"conv\d?\.weight$", key)]
    if len(classifier) != 2 or any(len(shape) != 4 for shape in (stem, *kernels)):
        raise ArtifactError("has no dense layers with bottlenecks, no stem or no classifier; give a whole DenseNet-BC")
    channels, image_channels, kernel, _ = stem
    large = kernel == 7
    return DenseNetConfig(
        layers=layers,
        growth_rates=growth_rates,
        channels=channels,
        bottleneck_factor=shapes[first][1] // growth_rates[0],
        reduction=_reduction(shapes),
        stem="large" if large else "small",
        image_channels=image_channels,
        image_size=image_size or (224 if large else 32),
        num_classes=classifier[0],
    )


def _reduction(shapes: Shapes) -> float:
    """The share that gives the channels of all transitions; a half wherever that is one."""
    widths = [shape[:2] for key, shape in shapes.items() if re.fullmatch(r"features\.transition\d+\.conv\.weight", key)]
    # Channels are rounded down: a share a little above the exact one gives them too.
    for share in (0.5, 1.0, *((out + extra) / into for out, into in widths for extra in (0, 0.25, 0.5, 0.75))):
        if all(int(share * into) == out for out, into in widths):
            return share
    raise ArtifactError("the transitions keep different shares of their channels; give a file of unchanged code")


def _keys(net: DenseNet, last_norm: str) -> dict[str, str]:
    """The foreign key of each of ours."""
    (stage,) = net.chain
    keys: dict[str, str] = {}
    for place, prefix, part in _places(stage):
        for tensor in part.state_dict():
            keys[f"stages.0.parts.{place}.{tensor}"] = f"{prefix}.{_tensor(part, tensor)}"
    for tensor in stage.exit.state_dict():
        kind, name = tensor.split(".", 1)
        keys[f"stages.0.exit.{tensor}"] = (
            f"{last_norm}.{name.removeprefix('norm.')}" if kind == "norm" else f"classifier.{name}"
        )
    return keys


def _places(stage: ChainStage) -> Iterator[tuple[int, str, torch.nn.Module]]:
    block, layer = 1, 0
    for place, part in enumerate(stage.parts):
        if isinstance(part, Transition):
            yield place, f"features.transition{block}", part
            block, layer = block + 1, 0
        elif isinstance(part, DenseLayer):
            layer += 1
            yield place, f"features.denseblock{block}.denselayer{layer}", part
        else:
            yield place, "features", part


def _tensor(part: torch.nn.Module, tensor: str) -> str:
    if isinstance(part, Ordinary):  # the stem: one convolution, or convolution and norm in a sequence
        names: Mapping[str, str] = {"module.weight": "conv0.weight", "module.0.0.weight": "conv0.weight"}
        return names.get(tensor) or f"norm0.{tensor.rpartition('.')[2]}"
    if isinstance(part, DenseLayer):
        return {"bottleneck.weight": "conv1.weight", "conv.weight": "conv2.weight"}.get(tensor, _bare(tensor))
    return _bare(tensor)


def _bare(tensor: str) -> str:
    """Our norms stand inside what also activates."""
    return tensor.replace(".norm.", ".")
