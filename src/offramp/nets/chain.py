"""Networks whose stages hand on nothing but feature maps of one scale."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from offramp.nets.base import MultiExitNet, NetConfig, check_images
from offramp.nets.layers import he_fan_out_
from offramp.shapes import State

Features = tuple[Tensor, ...]
"""Maps (N, C, H, W) of the same size, in the order of their channels."""


class ChainStage(nn.Module):
    """Some parts one after the other, then an exit.

    Args:
        parts: each takes :data:`Features` and gives :data:`Features`.
        classifier: the exit; takes them and gives logits.
        last: whether no stage follows.
    """

    def __init__(self, parts: Iterable[nn.Module], classifier: nn.Module, *, last: bool) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.exit = classifier
        self.last = last

    def features(self, features: Features) -> Features:
        """Behind the parts, as one map where another stage follows."""
        for part in self.parts:
            features = part(features)
        return features if self.last else (joined(features),)

    def forward(self, state: State) -> tuple[State, Tensor]:
        """The next state and the logits (N, C)."""
        (images,) = state
        assert images is not None
        features = self.features((images,))
        return (None,) if self.last else features, self.exit(features)


class ChainNet(MultiExitNet):
    """A network of such stages. The state is one map, at first the images.

    Args:
        config: what they were built from.
        stages: K of them, in which weights are initialised as He et al. do.
    """

    def __init__(self, config: NetConfig, stages: Iterable[ChainStage]) -> None:
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList(stages)
        he_fan_out_(self)

    def start(self, images: Tensor) -> State:
        """State before stage 0: normalised images (N, C, H, W)."""
        check_images(images, self.config.image_channels, self.config.smallest_image)
        return (images,)

    def _direct(self, k: int, images: Tensor) -> Tensor:
        """Logits (N, C) of exit k, without earlier exits."""
        self.start(images)
        features: Features = (images,)
        for stage in self.chain[: k + 1]:
            features = stage.features(features)
        logits: Tensor = self.chain[k].exit(features)
        return logits

    @property
    def chain(self) -> list[ChainStage]:
        """The stages."""
        return [stage for stage in self.stages if isinstance(stage, ChainStage)]


class Ordinary(nn.Module):
    """A part that is given all maps as one, and gives one.

    Args:
        module: any, from map to map.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: Features) -> Features:
        """One map."""
        return (self.module(joined(features)),)


def joined(features: Features) -> Tensor:
    """All of them as one map."""
    return features[0] if len(features) == 1 else torch.cat(features, dim=1)
