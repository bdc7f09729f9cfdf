"""The form of a converted CondenseNet that is fast when it is run operator by operator on a CPU.

What costs time there is memory that moves. So the maps of a block stand in one buffer, in NCHW layout, into which layers
write; a norm and ReLU is one pass instead of two; nothing is shuffled; and convolutions of few channels per group, for which
libraries have no fast code, become matrix products.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, pairwise, product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.nets.bounds import absorbed, as_bounds
from offramp.nets.chain import ChainStage, Features, Ordinary
from offramp.nets.condensenet.net import CondenseNet, FoldedGatheredLayer
from offramp.nets.dense_layers import FoldedLayer
from offramp.nets.folding import ScaleReLU

FEW_CHANNELS, FEW_MACS, LARGE_MAP = 8, 2_000_000, 700
"""Outputs per group, multiply-adds, and pixels at which another way to convolve becomes the faster one (measured on an AMD
EPYC with AVX-512, one thread)."""
PLACES = tuple(product((-1, 0, 1), repeat=2))
"""Rows and columns from the middle of a 3x3 kernel."""


def buffered(net: CondenseNet) -> CondenseNet:
    """Change the inference form of a network, in place, to this one.

    Args:
        net: folded; its layers of form ``grouped`` are changed, and where there are no others, stem and pooling too.
    """
    for stage in net.chain:
        stage.parts = nn.ModuleList(_parts(stage))
    return net


def _parts(stage: ChainStage) -> Iterator[nn.Module]:
    # Other layers want channels-last maps.
    layers = [part for part in stage.parts if isinstance(part, FoldedLayer | FoldedGatheredLayer)]
    throughout = all(map(_writes, layers))
    for in_buffer, run in groupby(stage.parts, _writes):
        if in_buffer:
            yield BufferedBlock(BufferedLayer(layer) for layer in run if isinstance(layer, FoldedGatheredLayer))
        else:
            yield from (_in_nchw(part) if throughout else part for part in run)


def _writes(part: nn.Module) -> bool:
    return isinstance(part, FoldedGatheredLayer) and part.shuffles


def _in_nchw(part: nn.Module) -> nn.Module:
    """The stem, or the pooling between blocks, for that layout; another part itself."""
    module = part.module if isinstance(part, Ordinary) else None
    if type(module) is nn.Conv2d:
        return Ordinary(PlainConv(module))
    return Ordinary(Halved()) if isinstance(module, nn.AvgPool2d) else part


class BufferedLayer(nn.Module):
    """A layer that reads all maps so far from a buffer and writes its own behind them.

    Norms have become bounds (see ``bounds.py``), and the bias of the bottleneck the weight of a channel of ones, the first in
    the buffer.

    Args:
        layer: of form ``grouped``.
    """

    index: Tensor
    """(groups * inputs of a group,) channels of the buffer."""

    def __init__(self, layer: FoldedGatheredLayer) -> None:
        super().__init__()
        groups = self.groups = layer.bottleneck.groups
        assert isinstance(layer.scale, ScaleReLU)
        norm = as_bounds(layer.scale)
        weight, bias = absorbed(layer.bottleneck.weight, norm)
        self.weight = _kept(torch.cat([weight, layer.bottleneck.bias + bias[..., None]], 2))
        self.lower = _kept(_with_ones(norm.lower, groups, -torch.inf)[:, None, None])
        upper = _with_ones(norm.upper, groups, torch.inf)[:, None, None]
        self.upper = _kept(upper) if (upper < torch.inf).any() else None
        self.register_buffer("index", _with_ones(layer.index + 1, groups, 0))
        self.conv = GroupedConv(layer.conv)

    @property
    def growth_rate(self) -> int:
        """Maps it adds."""
        return self.conv.out_channels

    def forward(self, buffer: Tensor, filled: int) -> None:
        """Add maps to the buffer (C, H, W) of one image, of which the first ``filled`` channels are there."""
        _, height, width = buffer.shape
        into = buffer[:filled].index_select(0, self.index)
        torch.maximum(into, self.lower, out=into)
        if self.upper is not None:
            torch.minimum(into, self.upper, out=into)
        into = into.view(self.groups, -1, height * width)
        # Output k of group g belongs at place k * groups + g.
        middle = into.new_empty(self.weight.shape[1], self.groups, height * width)
        torch.bmm(self.weight, into, out=middle.transpose(0, 1))
        self.conv(F.relu_(middle).view(-1, height, width), buffer[filled : filled + self.growth_rate])


class PlainConv(nn.Module):
    """A convolution that stays in NCHW layout, whatever layout weights are put into.

    Args:
        conv: the same.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        self.kernel_size, self.groups = conv.kernel_size, conv.groups
        self.stride, self.padding = conv.stride[0], conv.kernel_size[0] // 2
        self.weight = _kept(conv.weight.flatten(2))  # three axes have no other layout
        self.bias = conv.bias

    def forward(self, features: Tensor) -> Tensor:
        """(N, out, H, W) of (N, in, H, W)."""
        weight = self.weight.view(*self.weight.shape[:2], *self.kernel_size)
        return F.conv2d(features.contiguous(), weight, self.bias, self.stride, self.padding, groups=self.groups)


class GroupedConv(nn.Module):
    """A grouped 3x3 convolution that writes where it is told.

    Args:
        conv: the same, of stride 1 with padding 1.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.plain = PlainConv(conv)
        self.groups, self.out_channels, self.bias = conv.groups, conv.out_channels, self.plain.bias
        by_group = conv.weight.view(self.groups, -1, *conv.weight.shape[1:])  # (groups, out, in, 3, 3)
        into = by_group.shape[2]
        self.by_place = _kept(by_group.permute(0, 3, 4, 1, 2).reshape(self.groups, -1, into))
        """(groups, 9 * out, in), the place in the kernel first."""
        self.by_output = _kept(by_group.flip(3, 4).permute(0, 1, 3, 4, 2).reshape(self.groups, -1, into))
        """(groups, out * 9, in), the output first, and the kernel turned round."""

    def forward(self, middle: Tensor, out: Tensor) -> None:
        """Fill ``out`` (out, H, W) from (in, H, W)."""
        _, height, width = middle.shape
        macs = self.plain.weight.numel() * height * width
        if self.out_channels // self.groups >= FEW_CHANNELS and macs >= FEW_MACS:
            out.copy_(self.plain(middle[None])[0])
        elif height * width >= LARGE_MAP:
            self._shift(middle, out)
        else:
            products = torch.bmm(self.by_output, middle.view(self.groups, -1, height * width))
            sums = F.fold(products.view(-1, height * width), (height, width), 3, padding=1)
            torch.add(sums, self.bias[:, None, None], out=out)

    def _shift(self, middle: Tensor, out: Tensor) -> None:
        """Multiply, then add up what each place in the kernel gives, moved by its distance from the middle."""
        _, height, width = out.shape
        products = torch.bmm(self.by_place, middle.view(self.groups, -1, height * width))
        by_place = products.view(self.groups, 9, -1, height, width)
        sums = out.view(self.groups, -1, height, width)
        torch.add(by_place[:, 4], self.bias.view(self.groups, -1, 1, 1), out=sums)
        for place, (row, column) in enumerate(PLACES):
            (to_row, from_row), (to_column, from_column) = _overlap(row), _overlap(column)
            if place != 4:
                sums[:, :, to_row, to_column].add_(by_place[:, place, :, from_row, from_column])


class BufferedBlock(nn.Module):
    """Consecutive layers around one buffer per image; images one by one, since what one needs then stays in the cache.

    Args:
        layers: at least one.
    """

    def __init__(self, layers: Iterable[BufferedLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, features: Features) -> Features:
        """All maps as one."""
        buffer, layers = self.laid_out(features)
        for image in buffer:
            for layer, filled in layers:
                layer(image, filled)
        return (buffer[:, 1:],)

    def timed(self, features: Features, clock: Callable[[], float]) -> tuple[Features, list[float]]:
        """The same for one image, with the seconds of each layer."""
        buffer, layers = self.laid_out(features)
        times = [clock()]
        for layer, filled in layers:
            layer(buffer[0], filled)
            times.append(clock())
        return (buffer[:, 1:],), [end - start for start, end in pairwise(times)]

    def laid_out(self, features: Features) -> tuple[Tensor, list[tuple[nn.Module, int]]]:
        """The buffer (N, 1 + C, H, W) as the first layer wants it, and the layers with the channels each finds there."""
        ends = [1 + sum(part.shape[1] for part in features)]
        for layer in self.layers:
            assert isinstance(layer, BufferedLayer)
            ends.append(ends[-1] + layer.growth_rate)
        count, _, height, width = features[0].shape
        buffer = features[0].new_empty(count, ends[-1], height, width)
        buffer[:, 0] = 1
        torch.cat(features, 1, out=buffer[:, 1 : ends[0]])
        return buffer, list(zip(self.layers, ends, strict=False))


class Halved(nn.Module):
    """2x2 average pooling of maps in NCHW layout, for which PyTorch has no fast code."""

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H // 2, W // 2) of (N, C, H, W)."""
        height, width = (side // 2 * 2 for side in features.shape[2:])
        rows = torch.add(features[:, :, 0:height:2], features[:, :, 1:height:2]).mul_(0.25)
        return rows[..., 0:width:2] + rows[..., 1:width:2]


def _with_ones(values: Tensor, groups: int, of_ones: float) -> Tensor:
    """Per channel that a group reads, and once more per group for the channel of ones."""
    return F.pad(values.view(groups, -1), (0, 1), value=of_ones).flatten()


def _overlap(step: int) -> tuple[slice, slice]:
    """Along one axis, places and the places ``step`` farther, as far as both are there."""
    here, there = slice(max(0, -step), -step if step > 0 else None), slice(max(0, step), step if step < 0 else None)
    return here, there


def _kept(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach().contiguous(), requires_grad=False)
