"""The frozen description of a CondenseNet and the rules it must keep."""

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Literal, get_args

from offramp.errors import ConfigError
from offramp.nets.base import MultiExitNet
from offramp.nets.config import Config

Form = Literal["grouped", "folded", "dense", "ungrouped"]
"""What a learned convolution, and the 3x3 convolution behind it, have become by conversion.

``grouped``: its inputs are gathered, a grouped convolution reads them, its outputs are shuffled, as in the paper. ``folded``:
the shuffle is folded into the weights of the 3x3 convolution, which is no longer grouped for it. ``dense``: an ordinary
convolution with zeros; nothing is gathered or shuffled. ``ungrouped``: the same, and the 3x3 convolution has zeros instead of
groups too.
"""


@dataclass(frozen=True, kw_only=True)
class CondenseNetConfig(Config):
    """One CondenseNet (Huang et al., arXiv:1711.09224), or another network of its authors' repository."""

    family: ClassVar[str] = "condensenet"
    kind: ClassVar[str] = "a CondenseNet"

    layers: tuple[int, ...]
    """Dense layers of each block."""
    growth_rates: tuple[int, ...]
    """Channels that a layer adds, for each block."""
    bottleneck_factor: int = 4
    """The 1x1 convolution of a layer gives that many growth rates."""
    learned: bool = True
    """Whether the groups of 1x1 convolutions are learned; otherwise they are ordinary grouped convolutions."""
    groups: int = 4
    """G of the 1x1 convolutions."""
    condense_factor: int = 4
    """C: each learned group ends up with one in C inputs."""
    groups_3x3: int = 4
    reduction: float = 0.0
    """Share of channels kept by the 1x1 convolution of a transition; 0 builds none and only pools."""
    stem_stride: int = 1
    dropout: float = 0.0
    """Rate before learned convolutions."""
    forms: tuple[Form, ...] = ()
    """What each learned convolution has become; empty before conversion."""
    condensed_classifier: bool = False
    """Whether the last linear layer reads only half of its inputs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("learned", "condensed_classifier"):
            self.check_holds(field, isinstance(getattr(self, field), bool), "True or False")
        self.check_at_least(1, "bottleneck_factor", "groups", "condense_factor", "groups_3x3", "stem_stride")
        self.check_counts("layers", "block")
        self.check_counts("growth_rates", "block")
        self.check_per("growth_rates", "layers", "block")
        self.check_holds("reduction", 0 <= self.reduction <= 1, "at least 0 (only pooling), at most 1")
        self.check_holds("dropout", 0 <= self.dropout < 1, "at least 0, below 1")
        if self.dropout and (self.forms or not self.learned):
            raise ConfigError(
                f"dropout={self.dropout}: stands before learned convolutions, and here are none; set it to 0"
            )
        self._check_groups()
        self._check_forms()
        self.check_at_least(self.smallest_image, "image_size")

    def _check_forms(self) -> None:
        if not isinstance(self.forms, tuple) or any(form not in get_args(Form) for form in self.forms):
            raise ConfigError(f"forms={self.forms!r}: choose each of {', '.join(get_args(Form))}")
        if self.forms and len(self.forms) != self.num_learned:
            raise ConfigError(f"forms: {len(self.forms)} of them for {self.num_learned} learned convolutions")
        for place in self.transition_places if self.forms else ():
            if self.forms[place] in ("folded", "ungrouped"):
                raise ConfigError(
                    f"form '{self.forms[place]}': a transition has no 3x3 convolution; take 'grouped' or 'dense'"
                )

    def _check_groups(self) -> None:
        for rate in self.growth_rates:
            if rate % self.groups_3x3 or self.bottleneck_factor * rate % self.groups_3x3:
                raise ConfigError(f"groups_3x3={self.groups_3x3}: does not divide growth rate {rate}")
            if self.bottleneck_factor * rate % self.groups:
                raise ConfigError(
                    f"groups={self.groups}: does not divide the {self.bottleneck_factor * rate} channels of a bottleneck"
                )
        fields = ("groups", "condense_factor") if self.learned else ("groups",)
        for width in self.read_channels:
            for field in fields:
                if width % getattr(self, field):
                    raise ConfigError(
                        f"{field}={getattr(self, field)}: does not divide the {width} channels that a layer reads"
                    )

    @property
    def channels(self) -> int:
        """After the stem: twice the first growth rate."""
        return 2 * self.growth_rates[0]

    @property
    def transition_channels(self) -> tuple[int, ...]:
        """Channels after each transition, one fewer than blocks; rounded up to a multiple of the groups."""
        width, after = self.channels, []
        for layers, growth_rate in zip(self.layers[:-1], self.growth_rates, strict=False):
            width += layers * growth_rate
            if self.reduction:
                width = self.groups * math.ceil(math.ceil(width * self.reduction) / self.groups)
            after.append(width)
        return tuple(after)

    @property
    def read_channels(self) -> tuple[int, ...]:
        """Channels that each 1x1 convolution reads, in the order of the network; a transition's after its block."""
        starts = (self.channels, *self.transition_channels)
        found: list[int] = []
        for block, (start, layers, rate) in enumerate(zip(starts, self.layers, self.growth_rates, strict=True)):
            last = block == len(self.layers) - 1
            found += [start + layer * rate for layer in range(layers + (1 if self.reduction and not last else 0))]
        return tuple(found)

    @property
    def transition_places(self) -> tuple[int, ...]:
        """Which of the 1x1 convolutions are those of transitions."""
        ends = accumulate(layers + 1 for layers in self.layers[:-1])
        return tuple(end - 1 for end in ends) if self.reduction else ()

    @property
    def num_learned(self) -> int:
        """Learned convolutions."""
        return len(self.read_channels) if self.learned else 0

    @property
    def smallest_image(self) -> int:
        """Shortest side in pixels for which every block is still coarser than the one before."""
        return int(2 ** (len(self.layers) - 1) * self.stem_stride)

    def build(self) -> MultiExitNet:
        """The network, with He fan-out initialisation."""
        from offramp.nets.condensenet.net import CondenseNet

        return CondenseNet(self)
