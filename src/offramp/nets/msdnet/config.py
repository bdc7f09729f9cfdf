"""The frozen description of an MSDNet and the rules it must keep."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from offramp.errors import ConfigError
from offramp.nets.base import MultiExitNet
from offramp.nets.config import Config

Spacing = Literal["even", "linear"]
Pruning = Literal["max", "min"]
Stem = Literal["small", "large"]


@dataclass(frozen=True, kw_only=True)
class MSDNetConfig(Config):
    """One multi-scale dense network (Huang et al., arXiv:1703.09844, §4 and appendix).

    ``scale_factors`` and ``bottleneck_factors`` have one entry per scale, finest first; their number is the number of
    scales S. A scale s carries ``channels * scale_factors[s]`` channels at first and grows by
    ``growth_rate * scale_factors[s]`` per layer.
    """

    family: ClassVar[str] = "msdnet"
    kind: ClassVar[str] = "an MSDNet"

    exits: int
    """K, the number of stages and exits."""
    base: int
    """Layers before exit 0."""
    step: int
    """Spacing of the exits, in layers."""
    spacing: Spacing = "even"
    """``even``: stage k > 0 has ``step`` layers. ``linear``: it has ``step * k + 1``."""
    channels: int = 16
    growth_rate: int = 6
    scale_factors: tuple[int, ...] = (1, 2, 4)
    bottleneck_factors: tuple[int, ...] = (1, 2, 4)
    bottleneck: bool = True
    """1x1 convolution before each 3x3 one."""
    reduction: float = 0.5
    """Share of channels kept by a transition; 0 builds no transitions."""
    pruning: Pruning = "max"
    """``max`` drops the finest scale after each S-th of the depth, ``min`` only what the last exit cannot use."""
    stem: Stem = "small"
    """``small``: 3x3 stride 1, exits of 128 channels. ``large``: 7x7 stride 2, max pool, exits as wide as their input."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "exits", "base", "step", "channels", "growth_rate")
        for field, choices in (("spacing", Spacing), ("pruning", Pruning), ("stem", Stem)):
            self.check_choice(field, get_args(choices))
        if not isinstance(self.bottleneck, bool):
            raise ConfigError(f"bottleneck={self.bottleneck!r}: must be True or False")
        self.check_counts("scale_factors", "scale, finest first")
        self.check_counts("bottleneck_factors", "scale, finest first")
        _check_factors(self)
        _check_reduction(self)
        self.check_at_least(self.smallest_image, "image_size")

    @property
    def num_exits(self) -> int:
        """K."""
        return self.exits

    @property
    def num_scales(self) -> int:
        """S."""
        return len(self.scale_factors)

    @property
    def stage_layers(self) -> tuple[int, ...]:
        """Layers of each stage, (K,); the seeding layer is not counted."""
        later = (self.step if self.spacing == "even" else self.step * k + 1 for k in range(1, self.exits))
        return (self.base, *later)

    @property
    def num_layers(self) -> int:
        """Depth in layers; the seeding layer is not counted."""
        return sum(self.stage_layers)

    @property
    def smallest_image(self) -> int:
        """Shortest side in pixels for which every scale is still coarser than the one before."""
        return int(2 ** (self.num_scales - 1) * (4 if self.stem == "large" else 1))

    def build(self) -> MultiExitNet:
        """The network, with He fan-out initialisation."""
        from offramp.nets.msdnet.net import MSDNet

        return MSDNet(self)

    def build_plain(self) -> MultiExitNet:
        """The same network evaluated as the public code does, every scale of every layer; for comparison."""
        from offramp.nets.msdnet.net import MSDNet
        from offramp.nets.msdnet.plan import plain_plan

        return MSDNet(self, plain_plan)


def _check_factors(config: MSDNetConfig) -> None:
    if len(config.bottleneck_factors) != config.num_scales:
        raise ConfigError(
            f"bottleneck_factors={config.bottleneck_factors}: wants one entry per scale, "
            f"and scale_factors has {config.num_scales}"
        )
    for scale, factor in enumerate(config.scale_factors[1:], start=1):
        if config.growth_rate * factor % 2:
            raise ConfigError(
                f"growth_rate={config.growth_rate}: growth times scale factor is {config.growth_rate * factor} "
                f"at scale {scale} and must be even there, since two paths make half of it each"
            )


def _check_reduction(config: MSDNetConfig) -> None:
    reduction, channels = config.reduction, config.channels
    if not isinstance(reduction, int | float) or not 0 <= reduction <= 1:
        raise ConfigError(f"reduction={reduction!r}: the share of channels kept, between 0 (no transitions) and 1")
    if 0 < reduction * channels < 1:
        raise ConfigError(
            f"reduction={reduction}: leaves less than one of {channels} channels; raise reduction or channels"
        )
