"""Reads checkpoints of kalviny/MSDNet-PyTorch, the PyTorch port of MSDNet whose ImageNet weights are published.

It numbers the layers of a block together with the transitions there, and scales from the finest that a layer keeps. The
7x7 stem has a bias that batch norm makes useless; it is folded into the norm, which leaves every logit as it is.
"""

from pathlib import Path

import torch
from torch import Tensor

from offramp.errors import ArtifactError
from offramp.nets.foreign._msdnet_infer import infer
from offramp.nets.foreign._reading import Hints, Imported, Reader, check_complete, shapes_of
from offramp.nets.foreign._state_dict import open_state_dict
from offramp.nets.msdnet import MSDNet, MSDNetConfig, plain_plan
from offramp.nets.msdnet.config import Spacing
from offramp.nets.msdnet.net import Stage, cell_name
from offramp.nets.msdnet.plan import CellKey

_STEM_BIAS = "blocks.0.0.layers.0.0.bias"
_STEM_MEAN = "blocks.0.0.layers.0.1.running_mean"

Place = tuple[int, int, int]
"""Block, position inside it, index of the scale among those that the layer keeps."""


def read(path: Path, *, spacing: Spacing | None = None, image_size: int | None = None) -> Imported[MSDNet]:
    """The network of a checkpoint file, with its configuration told from keys and shapes.

    Args:
        path: {epoch, arch, state_dict, …} or a bare state dict, with or without ``module.`` before each key; the
            counters of batch norm may be missing.
        spacing: which spacing to note where one or two exits fit both; None prefers ``even``.
        image_size: side in pixels that costs are quoted for; None takes 32, or 224 with the large stem.

    Raises:
        ArtifactError: missing, damaged or unsafe file, another format, or a state dict with anything missing, left over
            or of another shape.
        ConfigError: ``spacing`` contradicts the file, or ``image_size`` is too small.
    """
    return _read(path, open_state_dict(path), Hints(image_size, spacing))


def _read(path: Path, weights: dict[str, Tensor], hints: Hints) -> Imported[MSDNet]:
    hints.only(SOURCE, "spacing")
    shapes = shapes_of(weights)
    try:
        inferred = infer(shapes, hints.spacing, hints.image_size)
        expected = _expected(inferred.config)
        check_complete(expected, shapes, "MSDNet", SOURCE)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from None
    folded = _fold_stem_bias(weights)
    net, used = _load(inferred.config, weights)
    dropped = tuple(key for key, shape in expected.items() if len(shape) == 4 and key not in used)
    return Imported(net, inferred.settled, dropped, folded)


SOURCE = "kalviny/MSDNet-PyTorch"
READERS = {"msdnet-pytorch": Reader(SOURCE, lambda shapes: any(key.startswith("blocks.") for key in shapes), _read)}
"""Readers by the name of their format."""


def _expected(config: MSDNetConfig) -> dict[str, tuple[int, ...]]:
    """Every key the public code would store, with its shape."""
    with torch.device("meta"):
        net = MSDNet(config, plain_plan)
    ours = net.state_dict()
    expected = {theirs: tuple(ours[our].shape) for our, theirs in _keys(net).items()}
    if config.stem == "large":
        expected[_STEM_BIAS] = expected[_STEM_MEAN]
    return expected


def _fold_stem_bias(weights: dict[str, Tensor]) -> tuple[str, ...]:
    """Take the stem's bias out of ``weights``: norm(x + bias) with mean m is norm(x) with mean m - bias."""
    if _STEM_BIAS not in weights:
        return ()
    weights[_STEM_MEAN] = weights[_STEM_MEAN] - weights.pop(_STEM_BIAS)
    return (_STEM_BIAS,)


def _load(config: MSDNetConfig, weights: dict[str, Tensor]) -> tuple[MSDNet, set[str]]:
    """Our lazy network with these weights, and the foreign keys it uses."""
    with torch.device("meta"):  # nothing is drawn or allocated: the weights come from the file
        net = MSDNet(config)
    keys = _keys(net)
    unseen = torch.zeros((), dtype=torch.int64)
    net.load_state_dict({our: weights.get(theirs, unseen.clone()) for our, theirs in keys.items()}, assign=True)
    return net.eval(), set(keys.values())


def _keys(net: MSDNet) -> dict[str, str]:
    """The foreign key of each of our keys, for a network of any planner."""
    places = _places(net.config)
    keys = {}
    for k, stage in enumerate(net.stages):
        assert isinstance(stage, Stage)
        for cell in stage.plan.cells:
            ours = cell_name(cell.key)
            for tensor in stage.cells[ours].state_dict():
                theirs = _cell_tensor(net.config, cell.layer, places[cell.key], tensor)
                keys[f"stages.{k}.cells.{ours}.{tensor}"] = theirs
        for tensor in stage.exit.state_dict():
            keys[f"stages.{k}.exit.{tensor}"] = f"classifier.{k}.{_exit_tensor(tensor)}"
    return keys


def _places(config: MSDNetConfig) -> dict[CellKey, Place]:
    """Where the public code has each cell; a transition takes the position after its layer."""
    places: dict[CellKey, Place] = {}
    for block, stage in enumerate(plain_plan(config)):
        position = 0
        for layer in sorted({cell.layer for cell in stage.cells}):
            cells = [cell for cell in stage.cells if cell.layer == layer]
            finest = min(cell.scale for cell in cells)
            places |= {cell.key: (block, position, cell.scale - finest) for cell in cells}
            position += 2 if any(cell.transition_channels for cell in cells) else 1
    return places


def _cell_tensor(config: MSDNetConfig, layer: int, place: Place, tensor: str) -> str:
    """The foreign key of a tensor inside a cell."""
    block, position, index = place
    part, rest = tensor.split(".", 1)
    if part == "transition":
        return f"blocks.{block}.{position + 1}.m.{index}.net.{rest}"
    prefix = f"blocks.{block}.{position}.layers.{index}"
    if layer > 0:
        return f"{prefix}.conv_{part}.net.{_unrolled(rest) if config.bottleneck else rest}"
    if index == 0 and config.stem == "large":
        return f"{prefix}.{rest.removeprefix('0.')}"
    return f"{prefix}.net.{rest}"


def _unrolled(tensor: str) -> str:
    """``half.part.name`` of a bottleneck and the convolution after it, numbered through: 3 parts a half."""
    half, part, name = tensor.split(".")
    return f"{3 * int(half) + int(part)}.{name}"


def _exit_tensor(tensor: str) -> str:
    """``features.i.part.name`` → ``m.i.net.part.name``; the linear layer is called alike."""
    if not tensor.startswith("features."):
        return tensor
    _, index, rest = tensor.split(".", 2)
    return f"m.{index}.net.{rest}"
