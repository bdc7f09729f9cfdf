"""Residual networks: parameter counts as published, and what is theirs alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from offramp.data.preprocess import Preprocessing
from offramp.data.source import Split
from offramp.errors import ConfigError
from offramp.nets.densenet import DenseNetConfig
from offramp.nets.resnet import VARIANTS, ResNet, ResNetConfig
from offramp.nets.resnet.net import PaddedShortcut, Residual
from offramp.train.recipe import Recipe
from offramp.train.trainer import Trainer
from shapes_only import parameters, shapes_only, staged

PUBLISHED = {  # millions; He et al., arXiv:1512.03385, table 6; Zagoruyko and Komodakis, arXiv:1605.07146, table 4
    "resnet-cifar-20": "0.27", "resnet-cifar-32": "0.46", "resnet-cifar-44": "0.66", "resnet-cifar-56": "0.85",
    "resnet-cifar-110": "1.7", "resnet-cifar-stochastic-110": "1.7", "resnet-cifar-wide-40-4": "8.9",
    "resnet-cifar-wide-16-8": "11.0", "resnet-cifar-wide-28-10": "36.5",
}  # fmt: skip
TORCHVISION = {"resnet-18": 11_689_512, "resnet-34": 21_797_672, "resnet-50": 25_557_032}
SMALL: dict[str, Any] = {"blocks": (2, 2), "widths": (8, 16), "channels": 8, "image_size": 8, "num_classes": 3}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"blocks": ()}, "blocks=(): give a tuple with one whole number per resolution"),
    ({"widths": (8,)}, "widths=(8,): wants one entry per resolution, and blocks has 2"),
    ({"channels": 0}, "channels=0: a ResNet wants a whole number of at least 1 here"),
    ({"expansion": 0}, "expansion=0: a ResNet wants a whole number of at least 1 here"),
    ({"shortcut": "none"}, "shortcut='none': choose one of pad, project"),
    ({"stem": "tiny"}, "stem='tiny': choose one of small, large"),
    ({"shortcut": "pad", "widths": (16, 8)}, "shortcut=pad: adds channels, and these widths take some away; use project"),
    ({"preactivation": 1}, "preactivation=1: must be True or False"),
    ({"dropout": 1.0}, "dropout=1.0: must be at least 0, below 1"),
    ({"stochastic_depth": -0.1}, "stochastic_depth=-0.1: must be at least 0, below 1"),
    ({"exit_blocks": (4,)}, "exit_blocks=(4,): give rising blocks from 1 to 3; the last exit needs no entry"),
    ({"image_size": 1}, "image_size=1: a ResNet wants a whole number of at least 2 here"),
]  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_published_as_such(name: str) -> None:
    with shapes_only():
        millions = parameters(VARIANTS[name].build()) / 1e6
    digits = len(PUBLISHED[name].partition(".")[2])
    assert f"{millions:.{digits}f}" == PUBLISHED[name]


@pytest.mark.parametrize("name", TORCHVISION)
def test_parameters_on_imagenet_are_those_of_torchvision(name: str) -> None:
    with shapes_only():
        assert parameters(VARIANTS[name].build()) == TORCHVISION[name]


def test_resnet_mc_has_the_exits_of_the_paper() -> None:
    with shapes_only():
        net = VARIANTS["resnet-cifar-mc"].build()
        costs = staged(net)
    assert len([m for m in net.modules() if isinstance(m, Residual)]) == 30
    assert net.num_exits == 7
    assert costs == sorted(costs)


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"expansion": 4}, {"shortcut": "pad"}, {"preactivation": True}, {"preactivation": True, "expansion": 4},
        {"preactivation": True, "shortcut": "pad"}, {"stem": "large", "image_size": 32}, {"exit_blocks": (1, 3)},
        {"stochastic_depth": 0.5}, {"dropout": 0.3}, {"preactivation": True, "dropout": 0.3},
    ],
    ids=str,
)  # fmt: skip
def test_the_inference_form_says_the_same_without_norms(
    changes: dict[str, Any], shake: Callable[[nn.Module], None]
) -> None:
    net = ResNetConfig(**(SMALL | changes)).build()
    shake(net)
    images = torch.randn(2, 3, net.config.image_size, net.config.image_size)
    with torch.inference_mode():
        expected, fused = net.eval()(images), net.fused()
        torch.testing.assert_close(fused(images), expected, rtol=1e-4, atol=1e-5)
        for k in range(net.num_exits):
            torch.testing.assert_close(fused.direct(k, images), expected[k], rtol=1e-4, atol=1e-5)
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]


def test_a_padded_shortcut_takes_every_second_pixel_and_adds_zeros() -> None:
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    found = PaddedShortcut(2, 2)(maps)
    assert found[0, 0].tolist() == [[0, 2], [8, 10]]
    assert found.shape == (1, 3, 2, 2)
    assert float(found[0, 1:].abs().max()) == 0


def test_survival_falls_linearly_to_the_last_block() -> None:
    net = ResNetConfig(**(SMALL | {"stochastic_depth": 0.4})).build()
    assert [m.survival for m in net.modules() if isinstance(m, Residual)] == pytest.approx([0.9, 0.8, 0.7, 0.6])


def test_a_skipped_block_is_its_shortcut_and_evaluation_weighs_it_by_its_survival() -> None:
    body, shortcut = nn.Conv2d(2, 2, 1), nn.Identity()
    block = Residual(body, shortcut, nn.Identity(), 0.25, activates=False)
    images = torch.randn(1, 2, 4, 4)
    with torch.no_grad():
        added = body(images)
        ran = sum(bool(torch.equal(block(images), images + added)) for _ in range(400))
        skipped = sum(bool(torch.equal(block(images), images)) for _ in range(400))
        assert 60 <= ran <= 140
        assert 260 <= skipped <= 340
        torch.testing.assert_close(block.eval()(images), images + 0.25 * added)


@pytest.mark.parametrize(
    "config",
    [
        ResNetConfig(**(SMALL | {"stochastic_depth": 0.5})),
        ResNetConfig(**(SMALL | {"dropout": 0.3})),
        DenseNetConfig(layers=(2, 2), growth_rates=(4, 4), channels=8, image_size=8, num_classes=3, dropout=0.3),
    ],
    ids=["stochastic depth", "dropout", "densenet"],
)
def test_a_resumed_training_draws_what_it_would_have_drawn(config: Any) -> None:
    def start() -> Trainer:
        recipe = Recipe(variant="", source="", epochs=3, batch_size=8, learning_rate=0.1, flip=False)
        pixels = torch.randint(0, 256, (16, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        samples = Split(pixels.numpy(), (torch.arange(16) % 3).numpy())
        torch.manual_seed(0)
        net = config.build()
        return Trainer(net, recipe, samples, Preprocessing(8, (0.5,) * 3, (0.25,) * 3), torch.device("cpu"))

    whole, first, second = start(), start(), start()
    for _ in range(5):
        whole.advance()
    for _ in range(2):
        first.advance()
    torch.manual_seed(7)  # another process has drawn other numbers by now
    second.restore(first.state())
    for _ in range(3):
        second.advance()
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(second.net.state_dict().values(), whole.net.state_dict().values(), strict=True)
    )


def test_training_leaves_the_random_numbers_of_its_caller_alone() -> None:
    net = ResNet(ResNetConfig(**(SMALL | {"dropout": 0.3})))
    recipe = Recipe(variant="", source="", epochs=1, batch_size=8, learning_rate=0.1, flip=False)
    samples = Split(torch.zeros(16, 8, 8, 3, dtype=torch.uint8).numpy(), (torch.arange(16) % 3).numpy())
    trainer = Trainer(net, recipe, samples, Preprocessing(8, (0.5,) * 3, (0.25,) * 3), torch.device("cpu"))
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    trainer.advance()
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[str(changes) for changes, _ in BAD])
def test_a_value_that_breaks_a_rule_is_refused_by_name_value_and_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ResNetConfig(**(SMALL | changes))
    assert message in str(caught.value)
