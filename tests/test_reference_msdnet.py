"""What the benchmarks compare with does what public code does, and costs what public code costs."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from msdnet_oracles import config_of
from offramp.measure.macs import count_macs
from offramp.nets.msdnet import MSDNet, MSDNetConfig, plain_plan
from tiny import CONFIG

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from reference_msdnet import Reference

ENTRIES = json.loads((Path(__file__).parent / "oracles" / "msdnet_counts.json").read_text(encoding="utf-8"))["entries"]
TIMED = ("cifar10_anytime_b10_base4_step2_even_nch16", "imagenet_b5_base4_step4_even_nch32_gr16")


@pytest.fixture
def _only_shapes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On the meta device each norm and ReLU costs a millisecond, and the first random number seconds.

    Norms and ReLUs keep the shape and count no MAC; weights stay as allocated.
    """

    def same(_self: nn.Module, images: Tensor) -> Tensor:
        return images

    monkeypatch.setattr(nn.BatchNorm2d, "forward", same)
    monkeypatch.setattr(nn.ReLU, "forward", same)
    for kind in (nn.Conv2d, nn.Linear):
        monkeypatch.setattr(kind, "reset_parameters", lambda _self: None)
    with torch.device("meta"), torch.inference_mode():
        yield


@pytest.mark.usefixtures("_only_shapes")
@pytest.mark.parametrize("name", TIMED)
def test_the_reference_costs_what_the_public_code_costs_up_to_every_exit(name: str) -> None:
    config = config_of(ENTRIES[name]["args"])
    net = Reference(config)
    totals = []
    for k in range(config.exits):
        with count_macs(net) as count:
            net.up_to(k, torch.empty(1, 3, config.image_size, config.image_size))
        totals.append(count.macs)
    assert totals == ENTRIES[name]["plain_cumulative"]


@pytest.mark.parametrize("config", [CONFIG, CONFIG.replace(stem="large", image_size=32), CONFIG.replace(pruning="min")])
def test_the_reference_answers_as_our_network_with_the_same_weights(
    config: MSDNetConfig, shake: Callable[[nn.Module], None]
) -> None:
    ours, theirs = MSDNet(config, plain_plan).eval(), Reference(config)
    shake(ours)
    theirs.load_state_dict({renamed(name, config): value for name, value in ours.state_dict().items()})
    images = torch.randn(2, 1, config.image_size, config.image_size)
    with torch.inference_mode():
        torch.testing.assert_close(torch.stack(theirs(images)), ours(images))


def renamed(name: str, config: MSDNetConfig) -> str:
    """The reference's name of one of our tensors."""
    parts = name.split(".")
    if parts[2] == "exit":
        place = {"0": 0, "1": 3}[parts[4]] + int(parts[5]) if parts[3] == "features" else 8
        return f"exits.{parts[1]}.{place}.{parts[-1]}"
    layer, scale = (int(part[5:]) for part in parts[3].split("_"))
    rest = parts[5:]
    if layer == 0:
        return ".".join(("first.scales", str(scale), *rest[-2:]))
    alive = [cell.scale for stage in plain_plan(config) for cell in stage.cells if cell.layer == layer]
    row = sorted(alive).index(scale)
    if parts[4] == "transition":
        return ".".join((f"layers.{layer - 1}.transitions.{row}", *rest))
    place = 3 * int(rest[0]) + int(rest[1])
    return f"layers.{layer - 1}.cells.{row}.{parts[4]}.{place}.{rest[-1]}"
