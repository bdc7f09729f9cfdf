"""What all readers of foreign checkpoints share."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from offramp.catalog import entries
from offramp.errors import ArtifactError, ConfigError
from offramp.nets.base import MultiExitNet, NetConfig
from offramp.nets.foreign._state_dict import COUNTER, open_state_dict
from offramp.nets.msdnet.config import Spacing

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of every tensor of a state dict, by key."""
N = TypeVar("N", bound=MultiExitNet)
N_co = TypeVar("N_co", bound=MultiExitNet, covariant=True)
_NAMED = 3  # how many keys an error names of each kind


@dataclass(frozen=True)
class Imported(Generic[N_co]):
    """A network with the weights of a foreign checkpoint, and what became of the rest of the file.

    Keys are the file's, without ``module.``.
    """

    net: N_co
    """In eval mode, float32, on the CPU."""
    settled: tuple[str, ...] = ()
    """One sentence for each value of the configuration that was given or assumed because the file leaves it open."""
    dropped: tuple[str, ...] = ()
    """Convolutions (with their norms) of cells that no exit uses."""
    folded: tuple[str, ...] = ()
    """Weights that were folded into others."""


@dataclass(frozen=True)
class Hints:
    """What a user says because the file leaves it open; None where nothing is said."""

    image_size: int | None = None
    spacing: Spacing | None = None
    groups: int | None = None
    condense_factor: int | None = None

    def only(self, source: str, *fields: str) -> None:
        """Refuse what a format has no use for.

        Raises:
            ConfigError: naming the value.
        """
        for field in ("spacing", "groups", "condense_factor"):
            if field not in fields and getattr(self, field) is not None:
                raise ConfigError(f"{field}={getattr(self, field)}: says nothing about files of {source}; leave it out")


@dataclass(frozen=True)
class Reader:
    """One format."""

    source: str
    """Whose code writes it."""
    knows: Callable[[Shapes], bool]
    """Whether a state dict looks like one of its."""
    read: Callable[[Path, dict[str, Tensor], Hints], Imported[MultiExitNet]]
    """Raises ArtifactError and ConfigError."""


def read_any(path: Path, hints: Hints) -> tuple[Imported[MultiExitNet], str]:
    """The network of a checkpoint of any known format, and whose code wrote it.

    Raises:
        ArtifactError: missing, damaged or unsafe file, or of none of the formats.
        ConfigError: the hints contradict the file.
    """
    weights = open_state_dict(path)
    shapes = shapes_of(weights)
    readers: dict[str, Reader] = entries("nets.foreign", "READERS")
    for reader in readers.values():
        if reader.knows(shapes):
            return reader.read(path, weights, hints), reader.source
    sources = ", ".join(reader.source for reader in readers.values())
    raise ArtifactError(
        f"{path}: these weights ({some(list(weights))}) are of none of {sources}; give a file of their code"
    )


def shapes_of(weights: Mapping[str, Tensor]) -> Shapes:
    """By key."""
    return {key: tuple(weight.shape) for key, weight in weights.items()}


def dense_blocks(shapes: Shapes, layer: re.Pattern[str]) -> tuple[tuple[int, ...], tuple[int, ...], str]:
    """Layers and growth rates of the blocks of a dense network, and the key of its first layer.

    Args:
        shapes: of the file's weights.
        layer: a layer's 3x3 convolution; its groups are the numbers of block and layer.

    Raises:
        ArtifactError: there are none.
    """
    places = sorted((int(m[1]), int(m[2]), key) for key in shapes if (m := layer.fullmatch(key)))
    if not places or any(len(shapes[key]) != 4 for _, _, key in places):
        raise ArtifactError("has no dense layers; give a whole network")
    by_block: dict[int, list[int]] = {}
    for block, _, key in places:
        by_block.setdefault(block, []).append(shapes[key][0])
    return tuple(map(len, by_block.values())), tuple(rates[0] for rates in by_block.values()), places[0][2]


def built_empty(config: NetConfig) -> MultiExitNet:
    """The network without memory: nothing is drawn or allocated, the weights come from the file."""
    with torch.device("meta"):
        return config.build()


def filled(net: N, keys: Mapping[str, str], weights: Mapping[str, Tensor], what: str, source: str) -> N:
    """The network with the weights of a file, in eval mode.

    Args:
        net: :func:`built_empty`.
        keys: the foreign key of each of ours.
        weights: the file's.
        what: such a network, with its article.
        source: whose code writes such files.

    Raises:
        ArtifactError: anything missing, left over or of another shape.
    """
    ours = net.state_dict()
    check_complete({theirs: tuple(ours[our].shape) for our, theirs in keys.items()}, shapes_of(weights), what, source)
    unseen = torch.zeros((), dtype=torch.int64)
    state = {our: weights.get(theirs, unseen.clone()).to(ours[our].dtype) for our, theirs in keys.items()}
    net.load_state_dict(state, assign=True)
    return net.eval()


def check_complete(expected: Shapes, found: Shapes, what: str, source: str) -> None:
    """Refuse weights that are not exactly the expected ones; counters of norms may be missing.

    Raises:
        ArtifactError: naming what is missing, left over or of another shape.
    """
    differences = {
        "missing": [key for key in expected if key not in found and not key.endswith(COUNTER)],
        "left over": [key for key in found if key not in expected],
        "of another shape": [
            f"{key} {found[key]}, not {shape}" for key, shape in expected.items() if found.get(key, shape) != shape
        ],
    }
    said = [f"{len(keys)} {kind} ({some(keys)})" for kind, keys in differences.items() if keys]
    if said:
        raise ArtifactError(
            f"the nearest {what} has other weights: {'; '.join(said)}; check that the file is whole and of unchanged "
            f"{source} code"
        )


def some(keys: list[str]) -> str:
    """The first of them."""
    return ", ".join(keys[:_NAMED]) + (", …" if len(keys) > _NAMED else "")
