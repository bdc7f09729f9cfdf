"""The frozen description of a DenseNet and the rules it must keep."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from offramp.errors import ConfigError
from offramp.nets.base import MultiExitNet
from offramp.nets.config import Config

Stem = Literal["small", "large"]


@dataclass(frozen=True, kw_only=True)
class DenseNetConfig(Config):
    """One densely connected network (Huang et al., arXiv:1608.06993, section 3)."""

    family: ClassVar[str] = "densenet"
    kind: ClassVar[str] = "a DenseNet"

    layers: tuple[int, ...]
    """Dense layers of each block."""
    growth_rates: tuple[int, ...]
    """Channels that a layer adds, for each block."""
    channels: int
    """Channels after the stem."""
    bottleneck_factor: int = 4
    """A 1x1 convolution of that many growth rates stands before each 3x3 one; 0 builds none."""
    reduction: float = 0.5
    """Share of channels kept by a transition."""
    stem: Stem = "small"
    """``small``: 3x3 stride 1. ``large``: 7x7 stride 2 with norm, max pool."""
    exit_layers: tuple[int, ...] = ()
    """Dense layers, counted from 1 over all blocks, that have an exit behind them; the last exit needs no entry."""
    dropout: float = 0.0
    """Rate behind each convolution but the first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "channels")
        self.check_at_least(0, "bottleneck_factor")
        self.check_choice("stem", get_args(Stem))
        self.check_counts("layers", "block")
        self.check_counts("growth_rates", "block")
        self.check_per("growth_rates", "layers", "block")
        self.check_holds("reduction", 0 < self.reduction <= 1, "above 0, at most 1")
        self.check_holds("dropout", 0 <= self.dropout < 1, "at least 0, below 1")
        if 0 in self.transition_channels:
            raise ConfigError(f"reduction={self.reduction}: leaves no channel of {self.channels}; raise it or channels")
        self.check_exits("exit_layers", sum(self.layers), "layers")
        self.check_at_least(self.smallest_image, "image_size")

    @property
    def num_exits(self) -> int:
        """K."""
        return len(self.exit_layers) + 1

    @property
    def transition_channels(self) -> tuple[int, ...]:
        """Channels after each transition, one fewer than blocks."""
        width, after = self.channels, []
        for layers, growth_rate in zip(self.layers[:-1], self.growth_rates, strict=False):
            width = int(self.reduction * (width + layers * growth_rate))
            after.append(width)
        return tuple(after)

    @property
    def smallest_image(self) -> int:
        """Shortest side in pixels for which every block is still coarser than the one before."""
        return int(2 ** (len(self.layers) - 1) * (4 if self.stem == "large" else 1))

    def build(self) -> MultiExitNet:
        """The network, with He fan-out initialisation."""
        from offramp.nets.densenet.net import DenseNet

        return DenseNet(self)
