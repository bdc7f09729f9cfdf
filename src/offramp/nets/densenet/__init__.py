"""Densely connected networks (DenseNet; Huang et al., arXiv:1608.06993) and their named variants.

Sources of the variants: the paper's tables 1 and 2 and the README of the authors' code (wide ones, 264 and 232 layers). Basic
networks have 16 channels after the stem, as their published parameter counts say; ``-2k`` has twice the growth rate, as the
authors' code does. ``mc`` has the exits of Huang et al., arXiv:1703.09844, section 5.1: 16 dense layers a block, exits behind
the 6th and 12th of each. They call it 52 layers deep and say that all their DenseNets are BC; as such it costs the 3e8 they
name (288 million MACs), while basic layers would cost 459 million. ``star`` is their DenseNet*, whose depths they do not give:
those here are ours. So is ``small``, an ``mc`` of about 40 million MACs, for experiments on a small machine.
"""

from offramp.nets.densenet.config import DenseNetConfig
from offramp.nets.densenet.net import DenseNet

__all__ = ["CONFIG", "VARIANTS", "DenseNet", "DenseNetConfig"]

CONFIG = {"densenet": DenseNetConfig}


def _basic(depth: int, growth_rate: int, channels: int = 16) -> DenseNetConfig:
    """Of that many convolutions and linear layers; three blocks."""
    return DenseNetConfig(
        layers=((depth - 4) // 3,) * 3,
        growth_rates=(growth_rate,) * 3,
        channels=channels,
        bottleneck_factor=0,
        reduction=1,
    )


def _bc(depth: int, *growth_rates: int) -> DenseNetConfig:
    """With bottlenecks and narrower transitions; one growth rate, or one for each block."""
    rates = growth_rates * 3 if len(growth_rates) == 1 else growth_rates
    return DenseNetConfig(layers=((depth - 4) // 6,) * 3, growth_rates=rates, channels=2 * rates[0])


def _imagenet(growth_rate: int, *layers: int) -> DenseNetConfig:
    return DenseNetConfig(
        layers=layers, growth_rates=(growth_rate,) * 4, channels=2 * growth_rate, stem="large", image_size=224,
        num_classes=1000,
    )  # fmt: skip


VARIANTS: dict[str, DenseNetConfig] = {
    **{f"densenet-cifar-{depth}-{k}": _basic(depth, k) for depth, k in ((40, 12), (100, 12), (100, 24))},
    **{f"densenet-cifar-{depth}-{k}-2k": _basic(depth, k, 2 * k) for depth, k in ((40, 12), (100, 12), (100, 24))},
    **{
        f"densenet-cifar-bc-{depth}-{k}": _bc(depth, k)
        for depth, k in ((40, 12), (40, 36), (40, 48), (40, 60), (100, 12), (250, 24), (190, 40))
    },
    "densenet-cifar-mc": _bc(100, 12).replace(exit_layers=(6, 12, 22, 28, 38, 44)),
    "densenet-cifar-small": _bc(40, 9).replace(exit_layers=(2, 4, 8, 10, 14, 16)),
    **{f"densenet-cifar-star-{depth}": _bc(depth, 8, 16, 32) for depth in (40, 64, 100)},
    "densenet-121": _imagenet(32, 6, 12, 24, 16),
    "densenet-169": _imagenet(32, 6, 12, 32, 32),
    "densenet-201": _imagenet(32, 6, 12, 48, 32),
    "densenet-161": _imagenet(48, 6, 12, 36, 24),
    "densenet-264": _imagenet(32, 6, 12, 64, 48),
    "densenet-264-48": _imagenet(48, 6, 12, 64, 48),
    "densenet-232-48": _imagenet(48, 6, 12, 48, 48),
}
