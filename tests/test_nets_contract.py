"""What every network in the catalog must do; a new variant is tested by being listed."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from offramp.catalog import entries
from offramp.engine.eager import EagerRuntime
from offramp.errors import ConfigError
from offramp.measure.macs import direct_macs, staged_macs
from offramp.nets.base import MultiExitNet, NetConfig
from offramp.runtimes import DirectRuntime, Runtime

VARIANTS: dict[str, NetConfig] = entries("nets", "VARIANTS")


@pytest.fixture(scope="module", params=VARIANTS)
def config(request: pytest.FixtureRequest) -> NetConfig:
    return VARIANTS[request.param]


@pytest.fixture(scope="module")
def net(config: NetConfig, shake: Callable[[nn.Module], None]) -> MultiExitNet:
    """The variant in eval mode, with norms as after training."""
    torch.manual_seed(0)
    net = config.build()
    shake(net)
    return net.eval()


def side_of(config: NetConfig) -> int:
    """Of the images: as small as all networks of that image size take them, so that large ones are quick too."""
    return max(16 if config.image_size <= 32 else 32, config.smallest_image)


def images_for(config: NetConfig, count: int) -> Tensor:
    side = side_of(config)
    return torch.randn(count, config.image_channels, side, side)


def parameters(net: MultiExitNet) -> int:
    return sum(weight.numel() for weight in net.parameters())


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_it_is_a_runtime_with_a_direct_way(net: MultiExitNet) -> None:
    assert isinstance(net, Runtime)
    assert isinstance(net, DirectRuntime)


def test_forward_gives_the_logits_of_all_exits(net: MultiExitNet, config: NetConfig) -> None:
    with torch.inference_mode():
        logits = net(images_for(config, 2))
    assert logits.shape == (net.num_exits, 2, config.num_classes)
    assert logits.isfinite().all()


def test_walk_computes_only_the_exits_that_are_asked_for(net: MultiExitNet, config: NetConfig) -> None:
    ran: list[int] = []
    hooks = [stage.register_forward_hook(lambda *_, k=k: ran.append(k)) for k, stage in enumerate(net.stages)]
    walk = net.walk(images_for(config, 1))
    with torch.inference_mode():
        assert ran == []
        next(walk)
        assert ran == [0]
        assert len(list(walk)) == net.num_exits - 1
    for hook in hooks:
        hook.remove()
    assert ran == list(range(net.num_exits))


@pytest.mark.parametrize("beyond", [-1, "K"])
def test_going_to_an_exit_that_is_not_there_is_refused(net: MultiExitNet, config: NetConfig, beyond: int | str) -> None:
    k = net.num_exits if isinstance(beyond, str) else beyond
    with torch.inference_mode(), pytest.raises(ConfigError, match=f"exit {k}: this network has exits 0"):
        net.direct(k, images_for(config, 1))


def test_going_straight_to_an_exit_gives_its_logits(net: MultiExitNet, config: NetConfig) -> None:
    images = images_for(config, 2)
    with torch.inference_mode():
        every = net(images)
        for k in range(net.num_exits):
            close(net.direct(k, images), every[k])


def test_images_that_are_not_square_and_odd_get_the_same_logits(net: MultiExitNet, config: NetConfig) -> None:
    side, last = side_of(config), net.num_exits - 1
    images = torch.randn(2, config.image_channels, side + 5, side + 2)
    with torch.inference_mode():
        *_, wanted = net.walk(images)
        close(net.direct(last, images), wanted)
        within = {"fp32": 1e-4, "bf16": 0.1} if parameters(net) < 1e6 else {"fp32": 1e-4}
        for precision, most in within.items():
            found = EagerRuntime(net, precision, torch.device("cpu")).direct(last, images)
            assert (found - wanted).abs().max() <= most * wanted.abs().max()


def test_taking_rows_and_stepping_is_stepping_and_taking_rows(net: MultiExitNet, config: NetConfig) -> None:
    rows = torch.tensor([2, 0])
    with torch.inference_mode():
        state = net.start(images_for(config, 3))
        for k in range(net.num_exits):
            _, of_taken = net.step(k, net.take(state, rows))
            state, logits = net.step(k, state)
            close(of_taken, logits[rows])


def test_an_image_gets_the_same_logits_whoever_else_is_in_the_batch(net: MultiExitNet, config: NetConfig) -> None:
    images = images_for(config, 3)
    with torch.inference_mode():
        close(net(images[1:2]), net(images)[:, 1:2])


def test_no_images_give_no_logits(net: MultiExitNet, config: NetConfig) -> None:
    with torch.inference_mode():
        assert net(images_for(config, 0)).shape == (net.num_exits, 0, config.num_classes)


def test_images_with_other_channels_are_refused(net: MultiExitNet, config: NetConfig) -> None:
    with pytest.raises(
        ConfigError, match=rf"images of shape .*: this network wants \(N, {config.image_channels}, H, W\)"
    ):
        net.start(torch.zeros(1, config.image_channels + 1, side_of(config), side_of(config)))


def test_every_weight_learns_from_the_sum_of_the_exits(net: MultiExitNet, config: NetConfig) -> None:
    torch.autograd.backward(net(images_for(config, 1)).sum())
    idle = [name for name, weight in net.named_parameters() if weight.grad is None]
    net.zero_grad(set_to_none=True)
    assert idle == []


def test_costs_rise_from_exit_to_exit_and_going_straight_costs_no_more(
    net: MultiExitNet, config: NetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net, "config", config.replace(image_size=side_of(config)))
    staged, direct = staged_macs(net), direct_macs(net)
    assert len(staged.at_exit) == len(direct.at_exit) == net.num_exits
    assert direct.at_exit[0] == staged.at_exit[0]
    assert all(alone <= with_earlier for alone, with_earlier in zip(direct.at_exit, staged.at_exit, strict=True))


def test_the_config_builds_the_same_network_and_a_changed_copy_as_many_classes_as_it_says(
    net: MultiExitNet, config: NetConfig
) -> None:
    assert net.config == config
    assert net.num_exits == config.num_exits
    changed = config.replace(num_classes=7)
    assert changed.num_classes == 7
    assert changed.replace(num_classes=config.num_classes) == config
    with torch.device("meta"):
        ours, theirs = net.state_dict(), changed.build().state_dict()
    assert ours.keys() == theirs.keys()
    differing = [name for name in ours if ours[name].shape != theirs[name].shape]
    assert len(differing) >= net.num_exits
    for name in differing:
        expected = tuple(7 if side == config.num_classes else side for side in ours[name].shape)
        assert tuple(theirs[name].shape) == expected


def test_the_config_comes_back_from_its_plain_values(config: NetConfig) -> None:
    assert type(config).from_json(json.loads(json.dumps(config.to_json()))) == config
