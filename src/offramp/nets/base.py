"""What every network of the package is: K stages with an exit after each."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from offramp.errors import ConfigError
from offramp.nets.folding import fold_all
from offramp.runtimes import Cancellation
from offramp.shapes import State
from offramp_runtime.stages import check_exit


class NetConfig(Protocol):
    """A frozen description of one network; enough to build it anew."""

    family: ClassVar[str]

    def __hash__(self) -> int: ...

    @property
    def num_exits(self) -> int: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def image_channels(self) -> int: ...

    @property
    def image_size(self) -> int: ...

    @property
    def smallest_image(self) -> int: ...

    def build(self) -> "MultiExitNet":
        """The network with freshly initialised weights."""
        ...

    def build_plain(self) -> "MultiExitNet":
        """The network as public code evaluates it, computing what no exit asked for; for comparison of costs."""
        ...

    def replace(self, **changes: object) -> Self:
        """A copy with some fields changed, checked anew."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        ...

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        ...


class MultiExitNet(nn.Module, ABC):
    """K stages and K exits; an answer can be taken at any of them.

    A plain classifier is the case K = 1. Stages are run with :meth:`step`, or lazily with :meth:`walk`.
    """

    stages: nn.ModuleList
    config: NetConfig
    structure: str = ""
    """What tells it from networks of the same config and weights, where these do not say it all."""

    @property
    def num_exits(self) -> int:
        """K."""
        return len(self.stages)

    @abstractmethod
    def start(self, images: Tensor) -> State:
        """State before stage 0, for normalised images (N, C, H, W)."""

    def step(self, k: int, state: State) -> tuple[State, Tensor]:
        """Run stage k; returns the next state and the logits (N, C) of exit k."""
        result: tuple[State, Tensor] = self.stages[k](state)
        return result

    def step_unless(self, cancelled: Cancellation, k: int, state: State) -> tuple[State, Tensor] | None:
        """:meth:`step`, or None when ``cancelled`` was set before."""
        return None if cancelled.is_set else self.step(k, state)

    def direct(self, k: int, images: Tensor) -> Tensor:
        """Logits (N, C) of exit k, skipping earlier exits and whatever only they need.

        Raises:
            ConfigError: no such exit.
        """
        check_exit(k, self.num_exits)
        return self._direct(k, images)

    @abstractmethod
    def _direct(self, k: int, images: Tensor) -> Tensor:
        """:meth:`direct`, of an exit that is there."""

    def take(self, state: State, rows: Tensor) -> State:
        """The state of the samples ``rows`` (indices, (M,)), in that order."""
        return tuple(None if part is None else _take_rows(part, rows) for part in state)

    def join(self, states: Sequence[State]) -> State:
        """The states of several batches before the same stage, at least one, as that of one batch."""
        parts = ([part for part in same if part is not None] for same in zip(*states, strict=True))
        return tuple(torch.cat(part) if part else None for part in parts)

    def rebuilt(self, config: NetConfig) -> "MultiExitNet":
        """A network of ``config``, whose weights are to be replaced.

        Args:
            config: this network's, for other classes or images.

        Raises:
            ConfigError: such a network cannot be built.
        """
        return config.build()

    def fused(self, align: int = 1, merge: bool = True, eager: bool = False) -> "MultiExitNet":  # noqa: ARG002 - a family may use them
        """A float32 copy for inference only, with norms folded; the same logits up to rounding.

        Args:
            align: a multiple to which a family may round channel counts up with zeros, for runtimes that keep channels
                in blocks of that size.
            merge: whether a family may let one convolution do what several on the same input do.
            eager: whether it will be run operator by operator on a CPU in float32, where a family may have a form that no
                compiler would read well.
        """
        return fold_all(self)

    def walk(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the logits (N, C) of exit 0, 1, … and compute only what is asked for."""
        state = self.start(images)
        for k in range(self.num_exits):
            state, logits = self.step(k, state)
            yield logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits (K, N, C) of all exits."""
        return torch.stack(list(self.walk(images)))


def _take_rows(part: Tensor, rows: Tensor) -> Tensor:
    """Whole rows in their layout; plain indexing keeps it too, but takes up to 2.4 times as long on a CPU."""
    if part.ndim == 4 and part.is_contiguous(memory_format=torch.channels_last):
        return part.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return part.index_select(0, rows)


def check_images(images: Tensor, channels: int, smallest: int) -> None:
    """Refuse a batch the network cannot take.

    Raises:
        ConfigError: not (N, channels, H, W), or a side shorter than ``smallest`` pixels.
    """
    if images.ndim != 4 or images.shape[1] != channels:
        raise ConfigError(
            f"images of shape {tuple(images.shape)}: this network wants (N, {channels}, H, W); "
            "give a batch of normalised images, channels first"
        )
    height, width = images.shape[2:]
    if min(height, width) < smallest:
        raise ConfigError(
            f"images of {height}x{width} pixels: this network wants at least {smallest} a side, "
            "so that its smallest maps keep a pixel; enlarge the images"
        )
