"""The frozen description of a residual network and the rules it must keep."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, get_args

from offramp.errors import ConfigError
from offramp.nets.base import MultiExitNet
from offramp.nets.config import Config

Stem = Literal["small", "large"]
Shortcut = Literal["pad", "project"]


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(Config):
    """One residual network (He et al., arXiv:1512.03385)."""

    family: ClassVar[str] = "resnet"
    kind: ClassVar[str] = "a ResNet"

    blocks: tuple[int, ...]
    """Residual blocks of each resolution."""
    widths: tuple[int, ...]
    """Channels of the 3x3 convolutions at each resolution."""
    channels: int
    """Channels after the stem."""
    expansion: int = 1
    """1: two 3x3 convolutions a block. More: a 1x1, a 3x3 and a 1x1 that gives that many times the width."""
    preactivation: bool = False
    """Whether norm and ReLU stand before each convolution (He et al., arXiv:1603.05027) instead of behind it."""
    shortcut: Shortcut = "project"
    """Where a block changes the shape: ``pad`` subsamples and adds channels of zeros, ``project`` convolves."""
    stem: Stem = "small"
    """``small``: 3x3 stride 1. ``large``: 7x7 stride 2, max pool."""
    exit_blocks: tuple[int, ...] = ()
    """Blocks, counted from 1, that have an exit behind them; the last exit needs no entry."""
    dropout: float = 0.0
    """Rate between the 3x3 convolutions of a block."""
    stochastic_depth: float = 0.0
    """Chance that training skips the last block; that of the others rises linearly up to it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "channels", "expansion")
        self.check_choice("shortcut", get_args(Shortcut))
        self.check_choice("stem", get_args(Stem))
        self.check_counts("blocks", "resolution")
        self.check_counts("widths", "resolution")
        self.check_per("widths", "blocks", "resolution")
        self.check_holds("preactivation", isinstance(self.preactivation, bool), "True or False")
        self.check_holds("dropout", 0 <= self.dropout < 1, "at least 0, below 1")
        self.check_holds("stochastic_depth", 0 <= self.stochastic_depth < 1, "at least 0, below 1")
        if self.shortcut == "pad" and any(b < a for a, b in pairwise((self.channels, *self.widths))):
            raise ConfigError("shortcut=pad: adds channels, and these widths take some away; use project")
        self.check_exits("exit_blocks", sum(self.blocks), "blocks")
        self.check_at_least(self.smallest_image, "image_size")

    @property
    def num_exits(self) -> int:
        """K."""
        return len(self.exit_blocks) + 1

    @property
    def smallest_image(self) -> int:
        """Shortest side in pixels for which every resolution is still coarser than the one before."""
        return int(2 ** (len(self.blocks) - 1) * (4 if self.stem == "large" else 1))

    def build(self) -> MultiExitNet:
        """The network, with He fan-out initialisation."""
        from offramp.nets.resnet.net import ResNet

        return ResNet(self)
