"""Residual networks and their named variants.

Sources: He et al., arXiv:1512.03385 (tables 1 and 6; CIFAR networks pad their shortcuts). Those of 10 and 26 layers on
ImageNet are of Huang et al., arXiv:1703.09844, section 5.1: ResNet-18 with one block less or more at each of the last four
resolutions. ``mc`` is that section's ResNet-MC: 62 layers, exits behind the 4th and 8th block of each resolution; an exit
within a network is pooling and a linear layer, as the last one is. ``stochastic`` skips blocks in training (Huang et al.,
arXiv:1603.09382, with a survival of 0.5 for the last). ``wide`` networks are those of Zagoruyko and Komodakis,
arXiv:1605.07146, table 4. Those of 8 and 14 layers and ``small`` are ours, for experiments on a small machine.
"""

from offramp.nets.resnet.config import ResNetConfig
from offramp.nets.resnet.net import ResNet

__all__ = ["CONFIG", "VARIANTS", "ResNet", "ResNetConfig"]

CONFIG = {"resnet": ResNetConfig}


def _cifar(depth: int) -> ResNetConfig:
    return ResNetConfig(blocks=((depth - 2) // 6,) * 3, widths=(16, 32, 64), channels=16, shortcut="pad")


def _wide(depth: int, factor: int) -> ResNetConfig:
    return ResNetConfig(
        blocks=((depth - 4) // 6,) * 3,
        widths=(16 * factor, 32 * factor, 64 * factor),
        channels=16,
        preactivation=True,
    )


def _imagenet(*blocks: int, expansion: int = 1) -> ResNetConfig:
    return ResNetConfig(
        blocks=blocks, widths=(64, 128, 256, 512), channels=64, expansion=expansion, stem="large", image_size=224,
        num_classes=1000,
    )  # fmt: skip


VARIANTS: dict[str, ResNetConfig] = {
    **{f"resnet-cifar-{depth}": _cifar(depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    "resnet-cifar-mc": _cifar(62).replace(exit_blocks=(4, 8, 14, 18, 24, 28)),
    "resnet-cifar-small": _cifar(20).replace(exit_blocks=(1, 2, 4, 5, 7, 8)),
    "resnet-cifar-stochastic-110": _cifar(110).replace(stochastic_depth=0.5),
    **{f"resnet-cifar-wide-{depth}-{k}": _wide(depth, k) for depth, k in ((40, 4), (16, 8), (28, 10))},
    "resnet-10": _imagenet(1, 1, 1, 1),
    "resnet-18": _imagenet(2, 2, 2, 2),
    "resnet-26": _imagenet(3, 3, 3, 3),
    "resnet-34": _imagenet(3, 4, 6, 3),
    "resnet-50": _imagenet(3, 4, 6, 3, expansion=4),
}
