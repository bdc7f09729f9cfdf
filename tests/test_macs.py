import pytest
import torch
from torch import nn

from offramp.measure.macs import count_macs, direct_macs, staged_macs
from offramp.nets.base import MultiExitNet
from offramp.nets.msdnet import MSDNet, MSDNetConfig, plain_plan

CONFIG = MSDNetConfig(exits=3, base=1, step=1, channels=4, growth_rate=2, image_channels=1, image_size=16)


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 10, 12), 10 * 12 * 8 * 3 * 9),
        (nn.Conv2d(3, 8, (1, 5), stride=2), (1, 3, 9, 9), 5 * 3 * 8 * 3 * 5),
        (nn.Conv2d(6, 12, 3, groups=3), (1, 6, 5, 5), 3 * 3 * 12 * 2 * 9),
        (nn.Conv2d(3, 8, 1), (4, 3, 2, 2), 4 * 2 * 2 * 8 * 3),
        (nn.Linear(7, 5), (1, 7), 35),
        (nn.Linear(7, 5), (3, 7), 105),
        (nn.BatchNorm2d(3), (2, 3, 4, 4), 0),
        (nn.ReLU(), (2, 3, 4, 4), 0),
        (nn.AvgPool2d(2), (2, 3, 4, 4), 0),
    ],
)
def test_a_mac_is_a_multiply_add_of_a_convolution_or_a_linear_layer(
    layer: nn.Module, shape: tuple[int, ...], macs: int
) -> None:
    with count_macs(layer) as count:
        layer(torch.zeros(shape))
    assert count.macs == macs


def test_the_count_runs_on_inside_the_block_and_stops_after_it() -> None:
    layer = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    with count_macs(layer) as count:
        layer(torch.zeros(1, 2))
        layer(torch.zeros(1, 2))
    layer(torch.zeros(1, 2))
    assert count.macs == 2 * (6 + 12)


def test_an_error_inside_the_block_leaves_no_hook() -> None:
    layer = nn.Linear(2, 3)
    with pytest.raises(RuntimeError), count_macs(layer):
        layer(torch.zeros(1, 5))
    assert not layer._forward_hooks


def test_costs_by_hand_for_the_smallest_network() -> None:
    config = MSDNetConfig(
        exits=1, base=1, step=1, channels=4, growth_rate=2, scale_factors=(1,), bottleneck_factors=(1,),
        image_channels=1, image_size=8, num_classes=5,
    )  # fmt: skip
    seed, layer = 64 * 4 * 1 * 9, 64 * (4 * 2 + 2 * 2 * 9)
    exit_0 = 16 * 128 * 6 * 9 + 4 * 128 * 128 * 9 + 128 * 5
    net = config.build()
    assert staged_macs(net).at_exit == (seed + layer + exit_0,)
    assert direct_macs(net).at_exit == (seed + layer + exit_0,)


def test_going_straight_is_cheaper_from_the_second_exit_on_and_never_dearer() -> None:
    net = MSDNet(CONFIG)
    staged, direct = staged_macs(net), direct_macs(net)
    assert (staged.unit, staged.kind) == ("MAC", "cumulative")
    assert (direct.unit, direct.kind) == ("MAC", "direct")
    assert direct.at_exit[0] == staged.at_exit[0]
    assert all(alone < with_earlier for alone, with_earlier in zip(direct.at_exit[1:], staged.at_exit[1:], strict=True))


def test_the_plain_network_costs_more_on_the_way_and_the_same_where_nothing_is_wasted() -> None:
    config = CONFIG.replace(base=3, step=3)
    lazy, plain = staged_macs(MSDNet(config)).at_exit, staged_macs(MSDNet(config, plain_plan)).at_exit
    assert lazy[0] < plain[0]
    assert lazy[-1] == plain[-1]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_counting_works_wherever_and_in_whatever_precision_the_weights_are(device: str, dtype: torch.dtype) -> None:
    expected = staged_macs(MSDNet(CONFIG))
    net = MSDNet(CONFIG).to(device, dtype)
    assert staged_macs(net) == expected
    assert direct_macs(net).at_exit[0] == expected.at_exit[0]


def test_counting_leaves_the_network_as_it_was() -> None:
    net: MultiExitNet = MSDNet(CONFIG).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    staged_macs(net)
    direct_macs(net)
    assert net.training
    assert all(module.training and not module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_counting_copies_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    net = MSDNet(CONFIG)
    seen = set[int]()

    def note(self: MSDNet, images: torch.Tensor) -> object:
        seen.update(parameter.data_ptr() for parameter in self.parameters())
        return original(self, images)

    original = MSDNet.start
    monkeypatch.setattr(MSDNet, "start", note)
    staged_macs(net)
    assert seen == {parameter.data_ptr() for parameter in net.parameters()}
