"""Less memory in training, the same training."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from offramp.errors import ConfigError
from offramp.measure.memory import kept_bytes
from offramp.nets.base import MultiExitNet
from offramp.nets.densenet import DenseNetConfig
from offramp.nets.msdnet import MSDNetConfig
from offramp.nets.recompute import set_recompute

SMALL: dict[str, Any] = {"image_size": 8, "num_classes": 3}
DENSE = DenseNetConfig(layers=(3, 3), growth_rates=(4, 4), channels=8, **SMALL)
NETS = {
    "densenet": DENSE,
    "densenet-basic": DENSE.replace(bottleneck_factor=0, reduction=1),
    "densenet-mc": DENSE.replace(exit_layers=(2, 4)),
    "densenet-dropout": DENSE.replace(dropout=0.3),
    "msdnet": MSDNetConfig(exits=3, base=2, step=1, channels=4, growth_rate=2, **SMALL),
    "msdnet-plain-paths": MSDNetConfig(exits=3, base=2, step=1, channels=4, growth_rate=2, bottleneck=False, **SMALL),
}


def trained(config: Any, mode: str, steps: int = 2) -> MultiExitNet:
    """After some steps of gradient descent, with the gradients of the last."""
    torch.manual_seed(0)
    net: MultiExitNet = config.build()
    set_recompute(net, mode)
    for _ in range(steps):
        net.zero_grad()
        torch.autograd.backward(net(torch.randn(6, 3, 8, 8)).square().mean())
        with torch.no_grad():
            for weight in net.parameters():
                assert weight.grad is not None
                weight.sub_(0.1 * weight.grad)
    return net


@pytest.mark.parametrize("mode", ["layers", "all"])
@pytest.mark.parametrize("name", NETS)
def test_gradients_weights_and_statistics_are_equal_to_the_last_bit(name: str, mode: str) -> None:
    plain, ours = trained(NETS[name], "none"), trained(NETS[name], mode)
    for key, value in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    for (key, theirs), (_, mine) in zip(plain.named_parameters(), ours.named_parameters(), strict=True):
        assert theirs.grad is not None
        assert mine.grad is not None
        assert torch.equal(mine.grad, theirs.grad), key


@pytest.mark.parametrize("mode", ["layers", "all"])
def test_norms_see_a_batch_once(mode: str) -> None:
    net = trained(DENSE, mode, steps=3)
    seen = [int(m.num_batches_tracked) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]  # type: ignore[arg-type]
    assert seen == [3] * len(seen)


@pytest.mark.parametrize("config", [DENSE, NETS["msdnet"]], ids=["densenet", "msdnet"])
def test_each_choice_keeps_less_than_the_one_before(config: Any) -> None:
    kept = []
    for mode in ("none", "layers", "all"):
        net = config.build()
        set_recompute(net, mode)
        kept.append(kept_bytes(net, torch.randn(4, 3, 8, 8)))
    assert kept[0] > kept[1] > kept[2] > 0


def test_what_is_kept_grows_with_the_depth_and_no_longer_with_its_square() -> None:
    def kept(mode: str) -> list[int]:
        found = []
        for layers in (8, 16, 24, 32):
            net = DENSE.replace(layers=(layers,), growth_rates=(4,)).build()
            set_recompute(net, mode)
            found.append(kept_bytes(net, torch.randn(2, 3, 8, 8)))
        return found

    def bends(sizes: list[int]) -> list[int]:
        steps = [after - before for before, after in pairwise(sizes)]
        return [after - before for before, after in pairwise(steps)]

    assert min(bends(kept("none"))) > 0
    # Every layer is the same step but for the statistics of its norms, which are as many as it reads channels.
    assert max(map(abs, bends(kept("layers")))) < 0.02 * kept("layers")[0]


def test_in_eval_mode_and_without_gradients_nothing_changes(shake: Callable[[nn.Module], None]) -> None:
    net = DENSE.build()
    shake(net)
    images = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        expected = net.eval()(images)
        set_recompute(net, "all")
        assert torch.equal(net(images), expected)


def test_gradients_in_bf16_are_close() -> None:
    def gradient(mode: str) -> Tensor:
        torch.manual_seed(0)
        net = DENSE.build()
        set_recompute(net, mode)
        with torch.autocast("cpu", torch.bfloat16):
            loss = net(torch.randn(6, 3, 8, 8)).float().square().mean()
        torch.autograd.backward(loss)
        return torch.cat([weight.grad.flatten() for weight in net.parameters()])  # type: ignore[union-attr]

    torch.testing.assert_close(gradient("layers"), gradient("none"), rtol=0.02, atol=1e-4)


def test_a_choice_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="recompute=some: choose one of none, layers, all"):
        set_recompute(DENSE.build(), "some")


def test_a_network_without_dense_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="recompute=layers: Linear has no dense layers; leave it at none"):
        set_recompute(nn.Linear(1, 1), "layers")
    set_recompute(nn.Linear(1, 1), "none")
