"""Layers that several families share."""

import math

import torch
from torch import Tensor, nn


class ConvNormReLU(nn.Sequential):
    """Convolution without bias, batch norm, ReLU; "same" padding for odd kernels."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class LargeStem(nn.Sequential):
    """What ImageNet networks begin with: 7x7 of stride 2, then max pooling."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(ConvNormReLU(in_channels, out_channels, 7, stride=2), nn.MaxPool2d(3, 2, 1))


class Exit(nn.Module):
    """Classifier on a feature map: two strided 3x3 convolutions, pooling to one pixel, a linear layer.

    The authors pool 2x2 without adapting; the adaptive pool is the same at feature sizes 5 to 8 and also serves others.
    """

    def __init__(self, in_channels: int, hidden_channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvNormReLU(in_channels, hidden_channels, 3, stride=2),
            ConvNormReLU(hidden_channels, hidden_channels, 3, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.linear = nn.Linear(hidden_channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, classes) of a feature map (N, C, H, W)."""
        logits: Tensor = self.linear(self.features(features))
        return logits


def answer_layers(part: nn.Module, num_classes: int) -> list[tuple[str, nn.Linear]]:
    """The linear layers in it that give so many values, one for each class, with their names in it."""
    layers = [(name, layer) for name, layer in part.named_modules() if isinstance(layer, nn.Linear)]
    return [(name, layer) for name, layer in layers if layer.out_features == num_classes]


def draws(net: nn.Module) -> bool:
    """Whether training draws random numbers inside the network."""
    return skips_blocks(net) or any(isinstance(module, nn.Dropout) and module.p > 0 for module in net.modules())


def skips_blocks(net: nn.Module) -> bool:
    """Whether a step of training runs some parts only by chance."""
    return any(getattr(module, "survival", 1.0) < 1 for module in net.modules())


@torch.no_grad()
def he_fan_out_(net: nn.Module) -> None:
    """Initialise as He et al. (arXiv:1502.01852, fan-out) did: convolutions N(0, sqrt(2 / (kh·kw·out))), norms 1 and 0.

    Linear weights keep PyTorch's default, linear biases become 0. This is what the MSDNet authors' Lua code does; the
    public PyTorch port means to but never reaches its convolutions.
    """
    if next(net.parameters()).is_meta:
        return  # nothing to fill, and drawing on the meta device first imports a compiler (seconds)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            kh, kw = module.kernel_size
            module.weight.normal_(0, math.sqrt(2 / (kh * kw * module.out_channels)))
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            module.bias.zero_()
