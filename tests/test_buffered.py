"""A converted CondenseNet in the form for running operator by operator says what the network says."""

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from offramp.engine.eager import EagerRuntime
from offramp.nets.base import MultiExitNet
from offramp.nets.condensenet import CondenseNet, CondenseNetConfig, Form, convert
from offramp.nets.condensenet.buffered import BufferedBlock, GroupedConv, Halved, PlainConv
from offramp.nets.pruning import condense
from tiny import Clock

Shake = Callable[[nn.Module], None]
CONFIG = CondenseNetConfig(
    layers=(2, 2), growth_rates=(4, 8), groups=2, condense_factor=4, groups_3x3=2, image_size=16, num_classes=4
)


def converted(config: CondenseNetConfig, forms: tuple[Form, ...], shake: Shake) -> CondenseNet:
    net = CondenseNet(config)
    shake(net)
    condense(net, 1.0)
    return convert(net.eval(), forms)


def says_the_same(form: MultiExitNet, net: MultiExitNet, images: Tensor, within: float = 1e-5) -> None:
    with torch.inference_mode():
        wanted, found = net(images), form(images)
        straight = form.direct(0, images)
    assert found.shape == wanted.shape
    for logits in (found[0], straight):
        assert logits.numel() == 0 or (logits - wanted[0]).abs().max() <= within * wanted.abs().max()


@st.composite
def nets(draw: st.DrawFn) -> tuple[CondenseNetConfig, tuple[Form, ...]]:
    groups, groups_3x3 = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 4]))
    layers = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    config = CondenseNetConfig(
        layers=layers,
        growth_rates=tuple(draw(st.sampled_from([4, 8])) for _ in layers),
        groups=groups,
        condense_factor=draw(st.sampled_from([1, 2, 4])),
        groups_3x3=groups_3x3,
        stem_stride=draw(st.sampled_from([1, 2])),
        image_channels=draw(st.sampled_from([1, 3])),
        image_size=16,
        num_classes=3,
    )
    return config, tuple(draw(st.sampled_from(get_args(Form))) for _ in range(config.num_learned))


@given(net=nets(), count=st.integers(0, 3), size=st.sampled_from([(16, 16), (17, 23), (31, 16)]))
def test_every_combination_of_forms_says_the_same(
    net: tuple[CondenseNetConfig, tuple[Form, ...]], count: int, size: tuple[int, int], shake: Shake
) -> None:
    made = converted(*net, shake)
    form = made.fused(eager=True)
    assert any(isinstance(part, BufferedBlock) for part in form.modules()) == ("grouped" in net[1])
    says_the_same(form, made, torch.randn(count, net[0].image_channels, *size))


def test_transitions_of_their_own_say_the_same(shake: Shake) -> None:
    made = converted(CONFIG.replace(reduction=0.5, condense_factor=2), ("grouped",) * 5, shake)
    says_the_same(made.fused(eager=True), made, torch.randn(2, 3, 16, 16))


def test_timing_its_layers_changes_nothing(shake: Shake) -> None:
    made = converted(CONFIG, ("grouped",) * 4, shake)
    block = next(part for part in made.fused(eager=True).modules() if isinstance(part, BufferedBlock))
    features = (torch.randn(1, 8, 16, 16),)
    with torch.inference_mode():
        (found,), seconds = block.timed(features, Clock())
        (wanted,) = block(features)
    assert torch.equal(found, wanted)
    assert len(seconds) == 2


def test_the_eager_runtime_takes_it_in_float32_only(shake: Shake) -> None:
    made = converted(CONFIG, ("grouped",) * 4, shake)
    cpu = torch.device("cpu")
    takes = [
        any(isinstance(part, BufferedBlock) for part in EagerRuntime(made, precision, cpu)._net.modules())
        for precision in ("fp32", "bf16")
    ]
    assert takes == [True, False]


def test_stem_and_pooling_are_changed_where_all_layers_are(shake: Shake) -> None:
    def plain(forms: tuple[Form, ...]) -> bool:
        form = converted(CONFIG, forms, shake).fused(eager=True)
        kinds = {type(part) for part in form.modules()}
        assert (PlainConv in kinds, Halved in kinds) in ((True, True), (False, False)) or BufferedBlock in kinds
        return Halved in kinds

    assert plain(("grouped",) * 4)
    assert not plain(("folded",) * 4)
    assert not plain(("grouped", "grouped", "dense", "grouped"))


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_it_stays_right_when_weights_change_type_and_layout(dtype: torch.dtype, within: float, shake: Shake) -> None:
    made = converted(CONFIG, ("grouped",) * 4, shake)
    form = made.fused(eager=True).to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode():
        images = torch.randn(3, 3, 16, 16)
        wanted = made(images)
        found = form(images.to(dtype, memory_format=torch.channels_last)).float()
    assert (found - wanted).abs().max() <= within * wanted.abs().max()


@pytest.mark.parametrize("scale", [0.0, -0.7, 1e-30, -1e-30, 1e-12, -1e-5])
@pytest.mark.parametrize("shift", [0.0, 0.4, -0.4])
def test_norms_that_hardly_vary_or_turn_round_say_the_same(scale: float, shift: float, shake: Shake) -> None:
    net = CondenseNet(CONFIG)
    shake(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight[::2], scale)
            nn.init.constant_(module.bias[::2], shift)
    condense(net, 1.0)
    made = convert(net.eval(), ("grouped",) * 4)
    form = made.fused(eager=True)
    says_the_same(form, made, torch.randn(2, 3, 16, 16))


class Called(TorchFunctionMode):
    """Names of the functions of PyTorch that are called within."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups", "size", "way"),
    [
        pytest.param(32, 8, 4, (32, 32), "add_", id="few channels, large map"),
        pytest.param(16, 6, 1, (25, 33), "add_", id="one group, not square"),
        pytest.param(128, 32, 4, (8, 8), "fold", id="few multiply-adds, small map"),
        pytest.param(8, 4, 4, (5, 1), "fold", id="odd map"),
        pytest.param(256, 64, 4, (14, 14), "conv2d", id="many channels and multiply-adds"),
    ],
)
def test_a_grouped_convolution_is_the_same_whichever_way_it_is_computed(
    inputs: int, outputs: int, groups: int, size: tuple[int, int], way: str
) -> None:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)
    features, out = torch.randn(inputs, *size), torch.full((outputs, *size), torch.nan)
    form = GroupedConv(conv)
    with torch.inference_mode(), Called() as called:
        form(features, out)
    with torch.inference_mode():
        wanted = conv(features[None])[0]
    assert (out - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert called.names & {"fold", "conv2d", "add_"} == {way}
