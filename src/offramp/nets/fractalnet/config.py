"""The frozen description of a FractalNet and the rules it must keep."""

from dataclasses import dataclass
from typing import ClassVar

from offramp.nets.base import MultiExitNet
from offramp.nets.config import Config


@dataclass(frozen=True, kw_only=True)
class FractalNetConfig(Config):
    """One fractal network (Larsson et al., arXiv:1605.07648, sections 3 and 4)."""

    family: ClassVar[str] = "fractalnet"
    kind: ClassVar[str] = "a FractalNet"

    columns: int = 3
    """Columns of each block; the first has one convolution, each further one twice as many."""
    widths: tuple[int, ...]
    """Channels of each block; between blocks is a pooling."""
    drop_path: float = 0.15
    """Chance that training leaves out an input of a join; one at least is kept."""
    dropout: float = 0.0
    """Rate behind the convolutions of the last block; that of the others rises up to it, from 0 in the first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "columns")
        self.check_counts("widths", "block")
        self.check_holds("drop_path", 0 <= self.drop_path < 1, "at least 0, below 1")
        self.check_holds("dropout", 0 <= self.dropout < 1, "at least 0, below 1")
        self.check_at_least(self.smallest_image, "image_size")

    @property
    def num_exits(self) -> int:
        """K: one for each column alone, and one for all of them where there are more than one."""
        return self.columns + (self.columns > 1)

    @property
    def smallest_image(self) -> int:
        """Shortest side in pixels that leaves something for the last block."""
        return int(2 ** (len(self.widths) - 1))

    def dropout_of(self, block: int) -> float:
        """Rate behind the convolutions of a block."""
        return self.dropout * block / max(1, len(self.widths) - 1)

    def build(self) -> MultiExitNet:
        """The network, with He fan-out initialisation."""
        from offramp.nets.fractalnet.net import FractalNet

        return FractalNet(self)
