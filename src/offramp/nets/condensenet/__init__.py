"""CondenseNets (Huang et al., arXiv:1711.09224) and the other networks of ShichenLiu/CondenseNet, and their named variants.

Sources of the variants: the paper's tables 2 to 4 and that repository's README. ``light`` learns the groups of an ordinary
DenseNet-BC, transitions included; ``grouped`` gives it ordinary groups. ``small`` is ours, about 40 million MACs while its
groups are learned, for experiments on a small machine.
"""

from offramp.nets.condensenet.config import CondenseNetConfig, Form
from offramp.nets.condensenet.convert import convert
from offramp.nets.condensenet.net import CondenseNet

__all__ = ["CONFIG", "VARIANTS", "CondenseNet", "CondenseNetConfig", "Form", "convert"]

CONFIG = {"condensenet": CondenseNetConfig}


def _cifar(depth: int, *growth_rates: int) -> CondenseNetConfig:
    return CondenseNetConfig(layers=((depth - 2) // 6,) * 3, growth_rates=growth_rates)


def _imagenet(groups: int) -> CondenseNetConfig:
    return CondenseNetConfig(
        layers=(4, 6, 8, 10, 8), growth_rates=(8, 16, 32, 64, 128), groups=groups, condense_factor=groups,
        groups_3x3=groups, stem_stride=2, image_size=224, num_classes=1000,
    )  # fmt: skip


VARIANTS: dict[str, CondenseNetConfig] = {
    **{f"condensenet-cifar-{depth}": _cifar(depth, 8, 16, 32) for depth in (50, 74, 86, 98, 110, 122)},
    "condensenet-cifar-small": _cifar(38, 8, 16, 32),
    "condensenet-cifar-182": _cifar(182, 12, 24, 48),
    "condensenet-cifar-light-100": CondenseNetConfig(layers=(16,) * 3, growth_rates=(12,) * 3, reduction=0.5),
    "condensenet-cifar-grouped-100": CondenseNetConfig(
        layers=(16,) * 3, growth_rates=(12,) * 3, reduction=0.5, learned=False
    ),
    "condensenet-imagenet-74-4": _imagenet(4),
    "condensenet-imagenet-74-8": _imagenet(8),
}
