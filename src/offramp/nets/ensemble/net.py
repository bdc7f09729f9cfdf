"""The ensemble itself."""

from collections.abc import Sequence

from torch import Tensor, nn

from offramp.errors import ConfigError
from offramp.nets.base import MultiExitNet, check_images
from offramp.nets.ensemble.config import EnsembleConfig
from offramp.shapes import State

_LEAST = 1e-30
"""Of a probability whose logarithm is taken, so that it stays finite."""


class Member(nn.Module):
    """One network, run from the images to its last exit.

    Args:
        net: the network.
        number: how many members run before it.
        last: whether no member follows.
    """

    def __init__(self, net: MultiExitNet, number: int, *, last: bool) -> None:
        super().__init__()
        self.net, self.number, self.last = net, number, last

    def forward(self, state: State) -> tuple[State, Tensor]:
        """The next state, and the logarithms of the mean probabilities (N, C)."""
        images, before = state
        assert images is not None
        total = self.net.direct(self.net.num_exits - 1, images).float().softmax(-1)
        if before is not None:
            total = total + before
        logits = (total / (self.number + 1)).clamp(min=_LEAST).log()
        return (None, None) if self.last else (images, total), logits


class Ensemble(MultiExitNet):
    """Networks in ascending cost; exit k answers with the mean of the first k + 1 networks' probabilities.

    So ensembles answer before deadlines and within budgets as every network with exits does (Huang et al.,
    arXiv:1703.09844, section 5).

    Args:
        config: of the members given.
        members: built.

    Raises:
        ConfigError: the members are not those of the config.
    """

    def __init__(self, config: EnsembleConfig, members: Sequence[MultiExitNet]) -> None:
        super().__init__()
        if tuple(member.config for member in members) != config.members:
            raise ConfigError("members: these networks are not those that the ensemble's config describes")
        self.config: EnsembleConfig = config
        last = len(members) - 1
        self.stages = nn.ModuleList(Member(net, number, last=number == last) for number, net in enumerate(members))

    @classmethod
    def of(cls, *members: MultiExitNet) -> "Ensemble":
        """Of networks that agree on images and classes.

        Raises:
            ConfigError: none, or they do not.
        """
        return cls(EnsembleConfig.of(*(member.config for member in members)), members)

    def start(self, images: Tensor) -> State:
        """State before stage 0: normalised images (N, C, H, W), and nothing summed up yet."""
        check_images(images, self.config.image_channels, self.config.smallest_image)
        return images, None

    def _direct(self, k: int, images: Tensor) -> Tensor:
        """Logits (N, C) of exit k, which needs all members before."""
        state = self.start(images)
        logits = images.new_zeros(())
        for member in self.stages[: k + 1]:
            state, logits = member(state)
        return logits

    def fused(self, align: int = 1, merge: bool = True, eager: bool = False) -> MultiExitNet:
        """A float32 copy for inference only, of the members' inference forms.

        Args:
            align: see the members'.
            merge: see the members'.
            eager: see the members'.
        """
        members = []
        for stage in self.stages:
            assert isinstance(stage, Member)
            members.append(stage.net.fused(align, merge, eager))
        return Ensemble(self.config, members).eval()
