"""Networks whose stages hand on nothing but feature maps of one scale."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from offramp.nets.base import MultiExitNet, check_images
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
        stages: K of them.
        smallest_image: shortest side in pixels that it takes.
    """

    def __init__(self, stages: Iterable[ChainStage], smallest_image: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self._smallest_image = smallest_image

    def start(self, images: Tensor) -> State:
        """State before stage 0: normalised images (N, C, H, W)."""
        check_images(images, self.config.image_channels, self._smallest_image)
        return (images,)

    def direct(self, k: int, images: Tensor) -> Tensor:
        """Logits (N, C) of exit k, without earlier exits."""
        features: Features
        (features,) = (self.start(images),)  # type: ignore[assignment]
        for stage in self.stages[: k + 1]:
            assert isinstance(stage, ChainStage)
            features = stage.features(features)
        logits: Tensor = self.stages[k].exit(features)  # type: ignore[operator]
        return logits


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
