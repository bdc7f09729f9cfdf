"""The fractal network itself."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.nets.base import MultiExitNet, check_images
from offramp.nets.folding import fold_pair
from offramp.nets.fractalnet.config import FractalNetConfig
from offramp.nets.layers import he_fan_out_
from offramp.shapes import State


class FractalConv(nn.Module):
    """3x3 convolution, dropout, norm, ReLU; with a norm for its column alone and, unless told else, one for all together.

    Args:
        in_channels: it reads.
        out_channels: it gives.
        dropout: rate.
        reads_joins: whether what it reads differs between the two.
    """

    def __init__(self, in_channels: int, out_channels: int, dropout: float, *, reads_joins: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.alone = nn.BatchNorm2d(out_channels)
        self.together = nn.BatchNorm2d(out_channels) if reads_joins else None

    def forward(self, features: Tensor, together: bool) -> Tensor:
        """(N, out, H, W) of (N, in, H, W)."""
        norm = self.alone if self.together is None or not together else self.together
        return F.relu_(norm(self.dropout(self.conv(features))))

    def folded(self) -> nn.Module:
        """Without norms."""
        together = None if self.together is None else fold_pair(self.conv, self.together)
        return FoldedFractalConv(fold_pair(self.conv, self.alone), together)


class FoldedFractalConv(nn.Module):
    """Inference form of a :class:`FractalConv`."""

    def __init__(self, alone: nn.Module, together: nn.Module | None) -> None:
        super().__init__()
        self.alone, self.together = alone, together

    def forward(self, features: Tensor, together: bool) -> Tensor:
        """(N, out, H, W) of (N, in, H, W)."""
        conv = self.alone if self.together is None or not together else self.together
        return conv(features)  # type: ignore[no-any-return]


class MaxExit(nn.Module):
    """The last pooling, which leaves one pixel, and a linear layer."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, classes)."""
        return self.linear(features.amax((2, 3)))  # type: ignore[no-any-return]


class Column(nn.Module):
    """One column of all blocks, and its exit.

    Args:
        config: of the network.
        number: of the column, which has 2 ** number convolutions a block.
    """

    def __init__(self, config: FractalNetConfig, number: int) -> None:
        super().__init__()
        self.begins = 1 if number < config.columns - 1 or number == 0 else 2
        """Convolutions of the first block before the first join, which are the same alone and with other columns."""
        several = config.columns > 1
        channels, blocks = config.image_channels, []
        for block, width in enumerate(config.widths):
            into = (channels, *[width] * (2**number - 1))
            blocks.append(
                nn.ModuleList(
                    FractalConv(
                        one,
                        width,
                        config.dropout_of(block),
                        reads_joins=several and (block > 0 or place >= self.begins),
                    )
                    for place, one in enumerate(into)
                )
            )
            channels = width
        self.blocks = nn.ModuleList(blocks)
        self.exit = MaxExit(channels, config.num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the convolutions before the first join give, and the logits (N, C)."""
        features, begun = images, images
        for block in range(len(self.blocks)):
            features = features if block == 0 else _halved(features)
            for place, conv in enumerate(self.convs(block), 1):
                features = conv(features, False)
                if block == 0 and place == self.begins:
                    begun = features
        return begun, self.exit(features)

    def convs(self, block: int) -> nn.ModuleList:
        """Those of a block."""
        convs = self.blocks[block]
        assert isinstance(convs, nn.ModuleList)
        return convs


class Join(nn.Module):
    """Mean of what columns give; training leaves inputs out by chance, but never all."""

    def __init__(self, drop_path: float) -> None:
        super().__init__()
        self.survival = 1 - drop_path

    def forward(self, given: Sequence[Tensor]) -> Tensor:
        """The shape of each of them."""
        if len(given) == 1:
            return given[0]
        if self.training and self.survival < 1:
            chances = torch.rand(len(given)).tolist()  # drawn on the CPU: no device is waited for
            last = int(torch.randint(len(given), ()))  # the one that is kept where all would go
            given = [one for one, chance in zip(given, chances, strict=True) if chance < self.survival] or [given[last]]
        total = given[0]
        for one in given[1:]:
            total = total + one
        return total / len(given)


class Whole(nn.Module):
    """All columns together: their joins, and the exit.

    Args:
        config: of the network.
    """

    def __init__(self, config: FractalNetConfig) -> None:
        super().__init__()
        self.join = Join(config.drop_path)
        self.exit = MaxExit(config.widths[-1], config.num_classes)

    def forward(self, images: Tensor, columns: Sequence[Column], begun: Sequence[Tensor | None]) -> Tensor:
        """Logits (N, C) of images, given what columns have begun."""
        features = images
        for block in range(len(columns[0].blocks)):
            features = features if block == 0 else _halved(features)
            features = self._block(features, block, columns, begun if block == 0 else (None,) * len(columns))
        return self.exit(features)  # type: ignore[no-any-return]

    def _block(self, features: Tensor, block: int, columns: Sequence[Column], begun: Sequence[Tensor | None]) -> Tensor:
        steps = 2 ** (len(columns) - 1)
        held = [features] * len(columns)
        for step in range(1, steps + 1):
            ending = [number for number in range(len(columns)) if step % (steps >> number) == 0]
            for number in ending:
                column, place = columns[number], step // (steps >> number)
                early = begun[number] if place <= column.begins else None
                held[number] = column.convs(block)[place - 1](held[number], True) if early is None else early
            features = self.join([held[number] for number in ending])
            for number in ending:
                held[number] = features
        return features


class FractalNet(MultiExitNet):
    """Fractal network (Larsson et al., arXiv:1605.07648): exit k is column k alone, the last one the whole fractal.

    Where the paper draws for each batch whether one column or the whole is trained, here a step trains all of them: the sum
    of the exits' losses takes the place of the paper's global drop-path, and drop-path in the whole is the local one. Each
    exit has a linear layer of its own. A column has the same convolutions alone and among others, but two sets of norms, as
    what they read differs: with one set for both, exits lost 2 to 17 points after six epochs on CIFAR-10, against norms that
    had seen only what the exit gives them.

    The state is the images and, of each column that has been run, what its convolutions before the first join gave, so that
    the whole does not compute them again.
    """

    config: FractalNetConfig

    def __init__(self, config: FractalNetConfig) -> None:
        super().__init__()
        self.config = config
        stages: list[nn.Module] = [Column(config, number) for number in range(config.columns)]
        self.stages = nn.ModuleList([*stages, Whole(config)] if config.columns > 1 else stages)
        he_fan_out_(self)

    def start(self, images: Tensor) -> State:
        """State before stage 0: normalised images (N, C, H, W), and nothing begun."""
        check_images(images, self.config.image_channels, self.config.smallest_image)
        return images, *(None for _ in range(self.config.columns))

    def step(self, k: int, state: State) -> tuple[State, Tensor]:
        """Run column k, or all of them; returns the next state and the logits (N, C) of exit k."""
        images, *begun = state
        assert images is not None
        if k == self.config.columns:
            columns = [stage for stage in self.stages if isinstance(stage, Column)]
            return (None,) * len(state), self.stages[k](images, columns, begun)
        begun[k], logits = self.stages[k](images)
        return (None, None) if self.config.columns == 1 else (images, *begun), logits

    def _direct(self, k: int, images: Tensor) -> Tensor:
        """Logits (N, C) of exit k, without earlier exits."""
        return self.step(k, self.start(images))[1]


def _halved(features: Tensor) -> Tensor:
    return F.max_pool2d(features, 2)
