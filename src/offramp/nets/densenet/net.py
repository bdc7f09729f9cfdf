"""The DenseNet itself."""

from collections.abc import Iterator

from torch import nn

from offramp.nets.chain import ChainNet, ChainStage, Ordinary
from offramp.nets.dense_layers import DenseLayer, PooledExit, Transition
from offramp.nets.densenet.config import DenseNetConfig
from offramp.nets.layers import LargeStem


class DenseNet(ChainNet):
    """Densely connected network (Huang et al., arXiv:1608.06993), with as many exits as its config says.

    A layer reads the maps of all earlier layers of its block, and so does an exit within a block.
    """

    config: DenseNetConfig

    def __init__(self, config: DenseNetConfig) -> None:
        super().__init__(config, _stages(config))


def _stages(config: DenseNetConfig) -> Iterator[ChainStage]:
    parts: list[nn.Module] = [Ordinary(_stem(config))]
    width, layer = config.channels, 0
    for block, (layers, growth_rate) in enumerate(zip(config.layers, config.growth_rates, strict=True)):
        if block:
            narrow = config.transition_channels[block - 1]
            parts.append(Transition(nn.Conv2d(width, narrow, 1, bias=False), after=config.dropout))
            width = narrow
        for _ in range(layers):
            parts.append(_layer(width, growth_rate, config))
            width += growth_rate
            layer += 1
            if layer in config.exit_layers:
                yield ChainStage(parts, PooledExit(width, config.num_classes), last=False)
                parts = []
    yield ChainStage(parts, PooledExit(width, config.num_classes), last=True)


def _stem(config: DenseNetConfig) -> nn.Module:
    if config.stem == "large":
        return LargeStem(config.image_channels, config.channels)
    return nn.Conv2d(config.image_channels, config.channels, 3, padding=1, bias=False)


def _layer(in_channels: int, growth_rate: int, config: DenseNetConfig) -> DenseLayer:
    middle = config.bottleneck_factor * growth_rate
    bottleneck = nn.Conv2d(in_channels, middle, 1, bias=False) if middle else None
    conv = nn.Conv2d(middle or in_channels, growth_rate, 3, padding=1, bias=False)
    return DenseLayer(bottleneck, conv, after=config.dropout)
