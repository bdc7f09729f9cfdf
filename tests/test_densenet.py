"""DenseNets: every count of 34 networks equals what was measured on public code (tests/oracles/densenet_counts.json)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from offramp.errors import ConfigError
from offramp.nets.chain import ChainStage
from offramp.nets.dense_layers import DenseLayer
from offramp.nets.densenet import VARIANTS, DenseNet, DenseNetConfig
from shapes_only import norm_elements, parameters, shapes_only, staged

ENTRIES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "oracles" / "densenet_counts.json").read_text(encoding="utf-8")
)["entries"]
PUBLISHED = {  # Huang et al., arXiv:1608.06993, table 2, and the README of liuzhuang13/DenseNet
    "densenet-cifar-40-12": "1.0M", "densenet-cifar-100-12": "7.0M", "densenet-cifar-100-24": "27.2M",
    "densenet-cifar-bc-100-12": "0.8M", "densenet-cifar-bc-250-24": "15.3M", "densenet-cifar-bc-190-40": "25.6M",
    "densenet-cifar-bc-40-36": "1.5M", "densenet-cifar-bc-40-48": "2.7M", "densenet-cifar-bc-40-60": "4.3M",
}  # fmt: skip
SMALL: dict[str, Any] = {"layers": (2, 2), "growth_rates": (4, 4), "channels": 8, "image_size": 8}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"layers": ()}, "layers=(): give a tuple with one whole number per block"),
    ({"layers": (2, 0)}, "layers=0: a DenseNet wants a whole number of at least 1 here"),
    ({"growth_rates": (4,)}, "growth_rates=(4,): wants one entry per block, and layers has 2"),
    ({"growth_rates": (4, 1.5)}, "growth_rates=1.5: a DenseNet wants a whole number of at least 1 here"),
    ({"channels": 0}, "channels=0: a DenseNet wants a whole number of at least 1 here"),
    ({"bottleneck_factor": -1}, "bottleneck_factor=-1: a DenseNet wants a whole number of at least 0 here"),
    ({"stem": "tiny"}, "stem='tiny': choose one of small, large"),
    ({"reduction": 0}, "reduction=0: must be above 0, at most 1"),
    ({"reduction": 0.05}, "reduction=0.05: leaves no channel of 8; raise it or channels"),
    ({"dropout": 1}, "dropout=1: must be at least 0, below 1"),
    ({"exit_layers": (0,)}, "exit_layers=(0,): give rising layers from 1 to 3; the last exit needs no entry"),
    ({"exit_layers": (2, 2)}, "exit_layers=(2, 2): give rising layers"),
    ({"exit_layers": (4,)}, "exit_layers=(4,): give rising layers"),
    ({"image_size": 1}, "image_size=1: a DenseNet wants a whole number of at least 2 here"),
    ({"num_classes": 1}, "num_classes=1: a DenseNet wants a whole number of at least 2 here"),
]


def config_of(args: dict[str, Any]) -> DenseNetConfig:
    """From the options of public code, as the oracles record them."""
    if "depth" in args:
        return DenseNetConfig(
            layers=((args["depth"] - 4) // 3,) * 3,
            growth_rates=(args["growth_rate"],) * 3,
            channels=args["init"],
            bottleneck_factor=0,
            reduction=args["reduction"],
            num_classes=args["num_classes"],
        )
    small = args["small_inputs"]
    return DenseNetConfig(
        layers=tuple(args["block_config"]),
        growth_rates=(args["growth_rate"],) * len(args["block_config"]),
        channels=args["num_init_features"],
        bottleneck_factor=args["bn_size"],
        reduction=args["compression"],
        stem="small" if small else "large",
        image_size=32 if small else 224,
        num_classes=args["num_classes"],
    )


@pytest.mark.parametrize("name", ENTRIES)
def test_parameters_and_macs_are_those_of_public_code(name: str) -> None:
    entry = ENTRIES[name]
    with shapes_only():
        net = config_of(entry["args"]).build()
        assert parameters(net) == entry["params"]
        assert staged(net) == [entry["macs"]]
        assert norm_elements(net) == entry["detail"]["bn"]


def test_there_are_34_networks_to_compare_with_and_the_catalog_has_all_published_ones() -> None:
    assert len(ENTRIES) == 34
    compared = {config_of(entry["args"]) for entry in ENTRIES.values()}
    single = {name for name, config in VARIANTS.items() if not config.exit_layers and "star" not in name}
    assert {name for name in single if VARIANTS[name] not in compared} == set()


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_published_as_such(name: str) -> None:
    with shapes_only():
        millions = parameters(VARIANTS[name].build()) / 1e6
    assert millions == pytest.approx(float(PUBLISHED[name][:-1]), abs=0.06)


def test_a_layer_reads_all_earlier_ones_of_its_block_old_ones_first() -> None:
    stage = DenseNetConfig(**SMALL).build().eval().stages[0]
    assert isinstance(stage, ChainStage)
    stem, before, layer = list(stage.parts)[:3]
    assert isinstance(layer, DenseLayer)
    seen: list[Tensor] = []
    layer.norm1.register_forward_hook(lambda _layer, given, _out: seen.append(given[0]))
    with torch.inference_mode():
        both = before(stem((torch.randn(1, 3, 8, 8),)))
        layer(both)
    assert [piece.shape[1] for piece in both] == [8, 4]
    assert torch.equal(seen[0], torch.cat(both, 1))


def test_exits_within_a_block_do_not_change_what_follows(shake: Any) -> None:
    config = DenseNetConfig(**SMALL)
    torch.manual_seed(0)
    plain, cut = config.build(), config.replace(exit_layers=(1, 3)).build()
    shake(plain)
    weights = iter(plain.state_dict().items())
    trunk = {
        name: value for name, value in cut.state_dict().items() if ".exit." not in name or name.startswith("stages.2")
    }
    cut.load_state_dict(dict(zip(trunk, (value for _, value in weights), strict=True)), strict=False)
    images = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(cut.eval()(images)[-1], plain.eval()(images)[-1])


def test_dropout_stands_behind_every_convolution_but_the_first() -> None:
    net = DenseNetConfig(**SMALL, dropout=0.5).build()
    assert isinstance(net, DenseNet)
    order: list[str] = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d) or (isinstance(module, nn.Dropout) and module.p > 0):
            module.register_forward_hook(lambda module, *_: order.append(type(module).__name__))
    net(torch.randn(2, 3, 8, 8))
    assert order == ["Conv2d"] + ["Conv2d", "Dropout"] * 9


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[str(changes) for changes, _ in BAD])
def test_a_value_that_breaks_a_rule_is_refused_by_name_value_and_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DenseNetConfig(**(SMALL | changes))
    assert message in str(caught.value)
