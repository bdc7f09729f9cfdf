"""The inference form of a network says what the network says."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from offramp.catalog import entries
from offramp.errors import ConfigError
from offramp.nets.base import MultiExitNet
from offramp.nets.folding import ConvReLU, fold
from offramp.nets.layers import ConvNormReLU
from offramp.nets.msdnet import MSDNet, MSDNetConfig, plain_plan
from offramp.nets.msdnet.fused import FusedCell, FusedMSDNet, FusedStage
from offramp.runtimes import DirectRuntime
from tiny import make_net

Shake = Callable[[nn.Module], None]
FORMS = [(1, True), (1, False), (8, True), (8, False)]
"""Align and merge."""
NAMES = ["msdnet-digits", "msdnet-cifar-anytime-10", "msdnet-cifar-batch-5", "msdnet-imagenet-4"]
"""Their inference form has options."""
OTHERS = [
    "densenet-cifar-40-12",
    "densenet-cifar-mc",
    "densenet-121",
    "condensenet-cifar-50",
    "resnet-cifar-mc",
    "resnet-18",
]
SMALL: dict[str, Any] = {"exits": 3, "base": 2, "step": 1, "channels": 4, "growth_rate": 2, "image_size": 16}


def shaken(config: Any, shake: Shake) -> Any:
    net = config.build()
    shake(net)
    return net.eval()


def images_for(net: MultiExitNet, count: int, side: int | None = None) -> Tensor:
    side = side or net.config.image_size
    return torch.randn(count, net.config.image_channels, side, side)


def close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert actual.numel() == 0 or (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def says_the_same(fused: MultiExitNet, net: MultiExitNet, images: Tensor) -> None:
    """Staged, staged from rows taken out, and direct."""
    rows = torch.arange(len(images) - 1, -1, -2)
    with torch.inference_mode():
        wanted = net(images)
        state = fused.start(images)
        for k in range(net.num_exits):
            _, of_taken = fused.step(k, fused.take(state, rows))
            close(of_taken, wanted[k][rows])
            state, logits = fused.step(k, state)
            close(logits, wanted[k])
            close(fused.direct(k, images), wanted[k])


@pytest.mark.parametrize("name", NAMES)
def test_networks_of_the_catalog_say_the_same(name: str, shake: Shake) -> None:
    net = shaken(entries("nets", "VARIANTS")[name], shake)
    for align, merge in ((1, True), (8, False)):
        says_the_same(net.fused(align, merge), net, images_for(net, 2, side=32))


@pytest.mark.parametrize("name", OTHERS)
def test_networks_of_other_families_say_the_same(name: str, shake: Shake) -> None:
    net = shaken(entries("nets", "VARIANTS")[name], shake)
    says_the_same(net.fused(), net, images_for(net, 2, side=32))
    says_the_same(net.fused(), net, images_for(net, 0, side=32))


@pytest.mark.parametrize("count", [0, 1, 2, 7])
@pytest.mark.parametrize(("align", "merge"), FORMS)
def test_any_number_of_images_says_the_same(align: int, merge: bool, count: int, shake: Shake) -> None:
    net = shaken(MSDNetConfig(**SMALL), shake)
    says_the_same(net.fused(align, merge), net, images_for(net, count))


@st.composite
def configs(draw: st.DrawFn) -> MSDNetConfig:
    factors = st.lists(st.integers(1, 4), min_size=(scales := draw(st.integers(1, 4))), max_size=scales).map(tuple)
    return MSDNetConfig(
        exits=draw(st.integers(1, 4)),
        base=draw(st.integers(1, 4)),
        step=draw(st.integers(1, 2)),
        spacing=draw(st.sampled_from(["even", "linear"])),
        channels=draw(st.integers(2, 9)),
        growth_rate=draw(st.sampled_from([2, 4])),
        scale_factors=draw(factors),
        bottleneck_factors=draw(factors),
        bottleneck=draw(st.booleans()),
        reduction=draw(st.sampled_from([0, 0.5, 1.0])),
        pruning=draw(st.sampled_from(["max", "min"])),
        stem=draw(st.sampled_from(["small", "large"])),
        image_size=draw(st.sampled_from([32, 45])),
        num_classes=3,
    )


@given(config=configs(), form=st.sampled_from(FORMS), plain=st.booleans())
def test_every_combination_of_options_says_the_same(
    config: MSDNetConfig, form: tuple[int, bool], plain: bool, shake: Shake
) -> None:
    net = MSDNet(config, plain_plan) if plain else MSDNet(config)
    shake(net)
    says_the_same(net.eval().fused(*form), net, images_for(net, 3))


@pytest.mark.parametrize("size", [(17, 23), (40, 9)])
def test_images_of_other_sizes_say_the_same(size: tuple[int, int], shake: Shake) -> None:
    net = shaken(MSDNetConfig(**SMALL), shake)
    says_the_same(net.fused(), net, torch.randn(2, 3, *size))


def test_it_is_a_runtime_with_a_direct_way_and_nothing_to_train() -> None:
    net = make_net()
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    fused = net.train().fused()
    assert isinstance(fused, DirectRuntime)
    assert not fused.training
    assert not any(weight.requires_grad for weight in fused.parameters())
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fused.modules())
    assert net.training
    assert all(torch.equal(weight, before[name]) for name, weight in net.state_dict().items())


def test_later_changes_of_the_network_do_not_reach_it() -> None:
    net, images = make_net(), torch.randn(1, 1, 16, 16)
    fused = net.fused()
    before = fused(images)
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
    assert torch.equal(fused(images), before)


def recorded(stage: nn.Module) -> list[ConvReLU]:
    """A list that grows with each convolution that runs."""
    ran: list[ConvReLU] = []
    for part in stage.modules():
        if isinstance(part, ConvReLU):
            part.register_forward_hook(lambda one, *_: ran.append(one))
    return ran


@pytest.mark.parametrize("k", range(3))
def test_bottlenecks_that_read_the_same_map_on_the_way_are_one_convolution(k: int) -> None:
    net = MSDNetConfig(**SMALL).build()
    images = images_for(net, 1)
    counts = []
    for merge in (True, False):
        fused = net.fused(merge=merge)
        assert isinstance(fused, FusedMSDNet)
        way = fused.ways[k]
        assert isinstance(way, FusedStage)
        present, ran = set(way.keys), recorded(way)
        fused.direct(k, images)
        counts.append((len(ran), sum(one.weight.numel() for one in ran)))
        pairs = sum(layer > 0 and (layer, scale - 1) in present for layer, scale in present)
    assert pairs > 0
    assert counts[0] == (counts[1][0] - pairs, counts[1][1])


def test_a_path_down_that_is_due_a_stage_earlier_runs_alone() -> None:
    fused = MSDNetConfig(**SMALL).build().fused()
    stages = [stage for stage in fused.stages if isinstance(stage, FusedStage)]
    cells = {key: cell for stage in stages for key, cell in zip(stage.keys, stage.cells.values(), strict=True)}
    apart = [
        cell
        for stage in stages
        for (layer, scale), cell in zip(stage.keys, stage.cells.values(), strict=True)
        if isinstance(cell, FusedCell)
        and cell.down is not None
        and (layer, scale - 1) in cells
        and (layer, scale - 1) not in stage.keys
    ]
    assert apart
    assert not any(cell.shares for cell in apart)


def test_aligned_channels_come_in_whole_blocks(shake: Shake) -> None:
    fused = shaken(MSDNetConfig(**SMALL), shake).fused(align=8)
    convs = [part for part in fused.modules() if isinstance(part, ConvReLU)]
    assert all(one.out_channels % 8 == 0 for one in convs)
    assert {one.in_channels % 8 for one in convs if one.in_channels != 3} == {0}


@pytest.mark.parametrize("align", [0, -8])
def test_blocks_without_channels_are_refused(align: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"align={align}: channels are rounded up to a multiple of it; give 1 or more"
    ):
        make_net().fused(align=align)


def test_folding_keeps_stride_padding_and_statistics(shake: Shake) -> None:
    layer = ConvNormReLU(3, 5, 3, stride=2)
    shake(layer)
    images = torch.randn(2, 3, 9, 8)
    close(fold(layer.eval())(images), layer(images))


def test_a_family_without_a_form_of_its_own_gets_its_norms_folded(shake: Shake) -> None:
    net = make_net()
    shake(net)
    folded = MultiExitNet.fused(net)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.stages.modules())
    images = torch.randn(3, 1, 16, 16)
    close(folded(images), net(images))
