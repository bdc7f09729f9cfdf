"""Well-known networks of comparable accuracy, to be timed beside ours: random weights, norms folded where they can be.

ResNet (He et al., arXiv:1512.03385; strides of ImageNet bottlenecks in the 3x3 convolution, projections wherever the shape
changes) and DenseNet-BC (Huang et al., arXiv:1608.06993). Those for CIFAR have the 100 classes of CIFAR-100.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Peer:
    """One of them."""

    build: Callable[[], nn.Module]
    image_size: int
    mmacs: float
    """As measured on public code, convolutions and linear layers."""


class Residual(nn.Module):
    """A residual block of two 3x3 convolutions, or of 1x1, 3x3 and 1x1 with ``expansion`` times the width."""

    def __init__(self, in_channels: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        out = width * expansion
        if expansion == 1:
            body = [*conv(in_channels, width, 3, stride), nn.ReLU(inplace=True), *conv(width, out, 3)]
        else:
            body = [*conv(in_channels, width, 1), nn.ReLU(inplace=True), *conv(width, width, 3, stride)]
            body += [nn.ReLU(inplace=True), *conv(width, out, 1)]
        self.body = nn.Sequential(*body)
        changes = stride > 1 or in_channels != out
        self.shortcut = nn.Sequential(*conv(in_channels, out, 1, stride)) if changes else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W)."""
        return torch.relu(self.body(maps) + self.shortcut(maps))


class Dense(nn.Module):
    """A dense layer with bottleneck: norm, ReLU, 1x1, norm, ReLU, 3x3, appended to its input."""

    def __init__(self, in_channels: int, growth_rate: int) -> None:
        super().__init__()
        wide = 4 * growth_rate
        self.body = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            *conv(in_channels, wide, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, growth_rate, 3, padding=1, bias=False),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W)."""
        return torch.cat([maps, self.body(maps)], dim=1)


def resnet_imagenet(blocks: tuple[int, ...], expansion: int) -> nn.Module:
    """ResNet for 224 pixels and 1000 classes."""
    stem = [*conv(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *_groups(64, (64, 128, 256, 512), blocks, expansion), *_head(512 * expansion, 1000))


def resnet_cifar(depth: int) -> nn.Module:
    """ResNet of ``depth`` = 6n + 2 layers for 32 pixels."""
    blocks = (depth - 2) // 6
    stem = [*conv(3, 16, 3), nn.ReLU(inplace=True)]
    return nn.Sequential(*stem, *_groups(16, (16, 32, 64), (blocks,) * 3, 1), *_head(64, 100))


def densenet_cifar(depth: int, growth_rate: int) -> nn.Module:
    """DenseNet-BC of ``depth`` = 6n + 4 layers for 32 pixels; transitions halve the channels."""
    channels = 2 * growth_rate
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
    for block in range(3):
        for _ in range((depth - 4) // 6):
            layers.append(Dense(channels, growth_rate))
            channels += growth_rate
        layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        if block < 2:
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, *_head(channels, 100))


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> list[nn.Module]:
    """Convolution and norm."""
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return [layer, nn.BatchNorm2d(out_channels)]


def _groups(channels: int, widths: tuple[int, ...], blocks: tuple[int, ...], expansion: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for group, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for block in range(count):
            layers.append(Residual(channels, width, 2 if group and not block else 1, expansion))
            channels = width * expansion
    return layers


def _head(channels: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


PEERS = {
    "ResNet-110": Peer(lambda: resnet_cifar(110), 32, 253.2),
    "DenseNet-BC-100-12": Peer(lambda: densenet_cifar(100, 12), 32, 288.0),
    "ResNet-18": Peer(lambda: resnet_imagenet((2, 2, 2, 2), 1), 224, 1814.1),
    "ResNet-50": Peer(lambda: resnet_imagenet((3, 4, 6, 3), 4), 224, 4089.2),
}
