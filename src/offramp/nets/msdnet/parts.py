"""The convolutions of an MSDNet's cells with norms folded, and channels padded where a runtime wants blocks of them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from offramp.errors import ConfigError
from offramp.nets.folding import ConvReLU, SpatialMean, fold
from offramp.nets.layers import ConvNormReLU, Exit
from offramp.nets.msdnet.net import Cell, MSDNet, Seed, Stage
from offramp.nets.msdnet.plan import CellKey


@dataclass(frozen=True)
class CellParts:
    """What a cell runs."""

    own: ConvReLU
    """3x3 convolution of the own path; the only one of a seed."""
    own_entry: ConvReLU | None = None
    """1x1 bottleneck before it."""
    down: ConvReLU | None = None
    """3x3 convolution of the path down from the finer scale."""
    down_entry: ConvReLU | None = None
    """1x1 bottleneck before it."""
    shared_entry: ConvReLU | None = None
    """``down_entry``, then ``own_entry`` of the finer cell of the same layer, as one convolution; both are views of it."""
    transition: ConvReLU | None = None
    pool: nn.Module | None = None
    """Behind a large stem."""


@dataclass(frozen=True)
class _Layout:
    """Where the channels of a map stand among those of zeros."""

    places: Tensor
    """(C,) positions."""
    width: int

    @classmethod
    def of(cls, channels: int, align: int) -> "_Layout":
        return cls(torch.arange(channels), -(-channels // align) * align)

    def then(self, other: "_Layout") -> "_Layout":
        return _Layout(torch.cat([self.places, self.width + other.places]), self.width + other.width)


@torch.no_grad()
def cell_parts(net: MSDNet, align: int, merge: bool) -> tuple[dict[CellKey, CellParts], list[nn.Module]]:
    """The parts of every cell, and the exits.

    Args:
        net: the network; stays as it is.
        align: channels of every map and bottleneck are rounded up to a multiple of this, with zeros.
        merge: whether to make ``shared_entry``.

    Raises:
        ConfigError: ``align`` is below 1.
    """
    if align < 1:
        raise ConfigError(
            f"align={align}: channels are rounded up to a multiple of it; give 1 or more (1 pads nothing)"
        )
    parts: dict[CellKey, CellParts] = {}
    layouts: dict[CellKey, _Layout] = {}
    for key, cell in net.cells():
        if isinstance(cell, Seed):
            layer, scale = key
            source = layouts[layer, scale - 1] if scale else _Layout.of(net.config.image_channels, 1)
            parts[key], layouts[key] = _seed(cell, source, align)
        else:
            assert isinstance(cell, Cell)
            parts[key], layouts[key] = _cell(cell, key, layouts, align)
    if merge:
        _merge(parts)
    coarsest = net.config.num_scales - 1
    exits: list[nn.Module] = []
    for stage in net.stages:
        assert isinstance(stage, Stage)
        exits.append(_exit(stage.exit, layouts[stage.plan.layer, coarsest], align))
    return parts, exits


def _conv(layer: nn.Module | None, source: _Layout, align: int) -> tuple[ConvReLU, _Layout]:
    """The folded and padded convolution, and where its output channels stand."""
    assert isinstance(layer, ConvNormReLU)
    plain = fold(layer)
    out = _Layout.of(plain.out_channels, align)
    weight = plain.weight.new_zeros(out.width, source.width, *plain.kernel_size)
    weight[: plain.out_channels, source.places.to(weight.device)] = plain.weight
    bias = plain.bias.new_zeros(out.width)
    bias[: plain.out_channels] = plain.bias
    return ConvReLU(weight, bias, plain.stride[0]), out


def _seed(seed: Seed, source: _Layout, align: int) -> tuple[CellParts, _Layout]:
    if isinstance(seed.conv, ConvNormReLU):
        conv, out = _conv(seed.conv, source, align)
        return CellParts(conv), out
    assert isinstance(seed.conv, nn.Sequential)
    conv, out = _conv(seed.conv[0], source, align)
    return CellParts(conv, pool=seed.conv[1]), out


def _cell(cell: Cell, key: CellKey, layouts: dict[CellKey, _Layout], align: int) -> tuple[CellParts, _Layout]:
    layer, scale = key
    out = layouts[layer - 1, scale]
    own_entry, own, own_out = _path(cell.normal, out, align)
    down_entry = down = transition = None
    if cell.down is not None:
        down_entry, down, down_out = _path(cell.down, layouts[layer - 1, scale - 1], align)
        out = out.then(down_out)
    out = out.then(own_out)
    if cell.transition is not None:
        transition, out = _conv(cell.transition, out, align)
    return CellParts(own, own_entry, down, down_entry, transition=transition), out


def _path(path: nn.Sequential, source: _Layout, align: int) -> tuple[ConvReLU | None, ConvReLU, _Layout]:
    if isinstance(path, ConvNormReLU):
        return None, *_conv(path, source, align)
    entry, middle = _conv(path[0], source, align)
    return entry, *_conv(path[1], middle, align)


def _merge(parts: dict[CellKey, CellParts]) -> None:
    for (layer, scale), cell in list(parts.items()):
        finer = parts.get((layer, scale - 1))
        if cell.down_entry is None or finer is None or finer.own_entry is None:
            continue
        weight = torch.cat([cell.down_entry.weight, finer.own_entry.weight])
        bias = torch.cat([cell.down_entry.bias, finer.own_entry.bias])
        width = cell.down_entry.out_channels
        parts[layer, scale] = replace(
            parts[layer, scale],
            down_entry=ConvReLU(weight[:width], bias[:width], 1),
            shared_entry=ConvReLU(weight, bias, 1),
        )
        parts[layer, scale - 1] = replace(parts[layer, scale - 1], own_entry=ConvReLU(weight[width:], bias[width:], 1))


def _exit(classifier: Exit, source: _Layout, align: int) -> nn.Module:
    first, hidden = _conv(classifier.features[0], source, align)
    second, hidden = _conv(classifier.features[1], hidden, align)
    linear = classifier.linear
    padded = nn.Linear(hidden.width, linear.out_features, device=linear.weight.device).requires_grad_(False)
    padded.weight.zero_()
    padded.weight[:, hidden.places.to(linear.weight.device)] = linear.weight.float()
    padded.bias.copy_(linear.bias)
    return nn.Sequential(first, second, SpatialMean(), padded)
