"""Reads and writes checkpoints of ShichenLiu/CondenseNet: its CondenseNets before and after conversion, and its DenseNets.

Groups and condensation factor are told from the masks, or from shapes where the file has been converted. A network that has
dropped nothing yet shows neither; they are asked for. Strides are not stored: five blocks are taken for ImageNet.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from offramp.errors import ArtifactError, ConfigError
from offramp.nets.base import MultiExitNet
from offramp.nets.chain import ChainStage, Ordinary
from offramp.nets.condensenet import CondenseNet, CondenseNetConfig
from offramp.nets.dense_layers import DenseLayer, Transition
from offramp.nets.foreign._reading import Hints, Imported, Reader, Shapes, built_empty, dense_blocks, filled, shapes_of
from offramp.nets.foreign._state_dict import open_state_dict
from offramp.nets.foreign._writing import write_state_dict
from offramp.nets.pruning import learned_convs

SOURCE = "ShichenLiu/CondenseNet"
_STEM, _LAST = "features.init_conv.weight", "features.norm_last"
_LAYER = re.compile(r"features\.denseblock_(\d{1,3})\.denselayer_(\d{1,3})\.conv_2\.conv\.weight")
_FIRST = "features.denseblock_1.denselayer_1.conv_1."
_COUNTERS = ("._count", "._stage")
_MASK = re.compile(r"features\..+\._mask")


def read(
    path: Path, *, image_size: int | None = None, groups: int | None = None, condense_factor: int | None = None
) -> Imported[CondenseNet]:
    """The network of a checkpoint file, with its configuration told from keys, shapes and masks.

    Args:
        path: {epoch, model, state_dict, …} or a bare state dict, with or without ``module.`` before each key.
        image_size: side in pixels that costs are quoted for; None takes 32, or 224 with five blocks.
        groups: of the learned convolutions, where nothing has been dropped yet.
        condense_factor: the same.

    Raises:
        ArtifactError: missing, damaged or unsafe file, another format, or anything missing, left over or of another shape;
            masks that no learned convolution has.
        ConfigError: the file leaves groups or factor open and they are not given, or it contradicts them.
    """
    return _read(path, open_state_dict(path), Hints(image_size, groups=groups, condense_factor=condense_factor))


def write(net: MultiExitNet, path: Path) -> None:
    """Write a file that the public code loads into the same network.

    Raises:
        ConfigError: another network, or one converted to forms that the public code does not have.
    """
    if not isinstance(net, CondenseNet):
        raise ConfigError(f"{SOURCE}: has only CondenseNets; this network is another")
    config = net.config
    if config.forms:
        lacking = [
            what
            for what, there in (
                ("every layer grouped (convert it with --form grouped)", set(config.forms) == {"grouped"}),
                ("half of the classifier (convert it with --condense-classifier)", config.condensed_classifier),
                ("as many groups as its condensation factor", config.groups == config.condense_factor),
            )
            if not there
        ]
        if lacking:
            raise ConfigError(
                f"{SOURCE}: reads converted networks only with {' and '.join(lacking)}; or write this one as it was before"
            )
    state = {theirs: value for our, theirs in _keys(net).items() for value in [net.state_dict()[our]]}
    for key, conv in zip([key for key in state if _MASK.fullmatch(key)], learned_convs(net), strict=True):
        stage, owner = float(conv.stage), key.removesuffix("_mask")
        state[key] = state[key].float()
        state[f"{owner}_stage"] = torch.tensor([stage])
        state[f"{owner}_count"] = torch.tensor([stage * (conv.in_channels // conv.condense_factor)])
    unconverted = "condensenet" if not config.reduction else "densenet_LGC" if config.learned else "densenet"
    model = "condensenet_converted" if config.forms else unconverted
    write_state_dict({f"module.{key}": value for key, value in state.items()}, path, model=model)


def _read(path: Path, found: dict[str, Tensor], hints: Hints) -> Imported[CondenseNet]:
    hints.only(SOURCE, "groups", "condense_factor")
    weights = {key: value for key, value in found.items() if not key.endswith(_COUNTERS)}
    try:
        _check_axes(found)
        config = _config(shapes_of(weights), _groups(found, hints), hints.image_size)
        net = built_empty(config)
        assert isinstance(net, CondenseNet)
        net = filled(net, _keys(net), weights, "CondenseNet", SOURCE)
        _check_indices(net)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from None
    place = "ImageNet" if config.stem_stride == 2 else "CIFAR"
    return Imported(net, (f"strides are not stored; {len(config.layers)} blocks are taken for {place}",))


def _check_indices(net: CondenseNet) -> None:
    """Refuse places that are none: they would be read beyond the end of a map."""
    reads = iter(net.config.read_channels)
    (stage,) = net.chain
    for part in stage.parts:
        if isinstance(part, DenseLayer | Transition):
            channels, index = next(reads), getattr(part, "index", torch.zeros(1))
            if not 0 <= int(index.min()) <= int(index.max()) < channels:
                raise ArtifactError(
                    f"an index of its layers points beyond {channels} channels; the file is damaged, get it anew"
                )


READERS = {"condensenet-pytorch": Reader(SOURCE, lambda shapes: _STEM in shapes, _read)}
WRITERS = {"condensenet": write}
"""By whose code loads the file."""


def _config(shapes: Shapes, groups: tuple[int, int], image_size: int | None) -> CondenseNetConfig:
    layers, growth_rates, first = dense_blocks(shapes, _LAYER)
    stem = shapes[_STEM]
    middle, narrow = shapes.get(f"{_FIRST}conv.weight", (growth_rates[0],))[0], shapes[first][1]
    large = len(layers) == 5
    converted = f"{_FIRST}index" in shapes
    config = CondenseNetConfig(
        layers=layers,
        growth_rates=growth_rates,
        bottleneck_factor=middle // growth_rates[0],
        learned=converted or f"{_FIRST}_mask" in shapes,
        groups=groups[0],
        condense_factor=groups[1],
        groups_3x3=middle // narrow,
        # What the authors' program takes by default; another share does not pass the check of all shapes.
        reduction=0.5 if any("transition" in key for key in shapes) else 0.0,
        stem_stride=2 if large else 1,
        image_channels=stem[1],
        image_size=image_size or (224 if large else 32),
        num_classes=shapes.get("classifier.weight", shapes.get("classifier.linear.weight", (2,)))[0],
        condensed_classifier="classifier.index" in shapes,
    )
    return config.replace(forms=("grouped",) * config.num_learned) if converted else config


def _check_axes(found: Mapping[str, Tensor]) -> None:
    for key, value in found.items():
        wanted = 4 if key.endswith(("conv.weight", "._mask")) else 1 if key.endswith(".index") else value.ndim
        if value.ndim != wanted:
            raise ArtifactError(f"'{key}' has {value.ndim} axes, not {wanted}; give a file of unchanged code")


def _groups(found: Mapping[str, Tensor], hints: Hints) -> tuple[int, int]:
    """G and C, as the file shows them or the user says."""
    entry, stem = found.get(f"{_FIRST}conv.weight"), found[_STEM]
    if entry is None:
        raise ArtifactError("has no first dense layer; give a whole CondenseNet")
    index = found.get(f"{_FIRST}index")
    if index is not None:
        shown = len(index) // entry.shape[1], len(stem) // entry.shape[1]
    elif f"{_FIRST}_mask" in found:
        shown = _shown_by_masks(found, hints)
    else:
        shown = len(stem) // entry.shape[1], hints.condense_factor or 4
    if hints.groups not in (None, shown[0]) or hints.condense_factor not in (None, shown[1]):
        raise ConfigError(
            f"groups={hints.groups}, condense_factor={hints.condense_factor}: the file shows {shown[0]} and {shown[1]}; "
            "leave them out"
        )
    return shown


def _shown_by_masks(found: Mapping[str, Tensor], hints: Hints) -> tuple[int, int]:
    masks = [value.flatten(1) != 0 for key, value in found.items() if key.endswith("._mask")]
    if not all(bool(mask.all()) for mask in masks):
        return _learnt_groups(masks), _factor(found)
    if hints.groups is None or hints.condense_factor is None:
        raise ConfigError(
            "nothing has been dropped in this file yet, so that it shows neither groups nor condensation factor; "
            "give both (groups, condense_factor)"
        )
    return hints.groups, hints.condense_factor


def _learnt_groups(masks: list[Tensor]) -> int:
    """The fewest groups that all masks agree with."""
    most = min(len(mask) for mask in masks)
    groups = next((g for g in range(1, most + 1) if all(_periodic(mask, g) for mask in masks)), None)
    if groups is None or any(bool((mask.sum(1) != mask[0].sum()).any()) for mask in masks):
        raise ArtifactError("its masks are not those of learned group convolutions; give a file of unchanged code")
    return groups


def _factor(found: Mapping[str, Tensor]) -> int:
    """C: a portion is one in C inputs, and the file tells how many portions and how many inputs are gone."""
    stage, count = (found.get(f"{_FIRST}{name}") for name in ("_stage", "_count"))
    if stage is None or count is None or stage.numel() != 1 or count.numel() != 1 or not int(stage) or not int(count):
        raise ArtifactError("its first learned convolution does not tell its stage; give a file of unchanged code")
    return int(found[_STEM].shape[0]) * int(stage) // int(count)


def _periodic(mask: Tensor, groups: int) -> bool:
    """Whether output o keeps what output ``o % groups`` keeps."""
    if len(mask) % groups or mask.shape[1] % groups:
        return False
    by_group = mask.view(-1, groups, mask.shape[1])
    return bool((by_group == by_group[:1]).all())


def _keys(net: CondenseNet) -> dict[str, str]:
    """The foreign key of each of ours."""
    (stage,) = net.chain
    keys: dict[str, str] = {}
    for place, prefix, part in _places(stage):
        for tensor in part.state_dict():
            keys[f"stages.0.parts.{place}.{tensor}"] = f"{prefix}{_tensor(part, tensor)}"
    for tensor in stage.exit.state_dict():
        kind, name = tensor.split(".", 1)
        if kind == "norm":
            keys[f"stages.0.exit.{tensor}"] = f"{_LAST}.{name.removeprefix('norm.')}"
        else:
            inside = "linear." if net.config.condensed_classifier and name != "index" else ""
            keys[f"stages.0.exit.{tensor}"] = f"classifier.{inside}{name}"
    return keys


def _places(stage: ChainStage) -> Iterator[tuple[int, str, nn.Module]]:
    block, layer = 1, 0
    for place, part in enumerate(stage.parts):
        if isinstance(part, DenseLayer):
            layer += 1
            yield place, f"features.denseblock_{block}.denselayer_{layer}.", part
        elif place == 0:
            yield place, "features.init_conv.", part
        else:  # a transition, or only its pooling
            yield place, f"features.transition_{block}.conv.", part
            block, layer = block + 1, 0


def _tensor(part: nn.Module, tensor: str) -> str:
    if isinstance(part, Ordinary):
        return tensor.removeprefix("module.")
    kind, _, name = tensor.replace(".norm.", ".").partition(".")
    if isinstance(part, Transition):
        return {"norm": f"norm.{name}", "conv": f"conv.{name}", "index": "index"}[kind].replace("conv.mask", "_mask")
    owner, inside = {
        "norm1": ("conv_1", "norm."), "bottleneck": ("conv_1", "conv."), "norm2": ("conv_2", "norm."),
        "conv": ("conv_2", "conv."), "index": ("conv_1", "index"),
    }[kind]  # fmt: skip
    return f"{owner}._mask" if name == "mask" else f"{owner}.{inside}{name}"
