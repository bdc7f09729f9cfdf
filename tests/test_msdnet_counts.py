"""Every count of 50 networks equals what was measured on the authors' PyTorch code (tests/oracles/msdnet_counts.json)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from msdnet_oracles import config_of
from offramp.measure.macs import count_macs
from offramp.nets.msdnet import MSDNet, MSDNetConfig, plain_plan, plan
from shapes_only import image, parameters, shapes_only, staged

ENTRIES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "oracles" / "msdnet_counts.json").read_text(encoding="utf-8")
)["entries"]


@dataclass(frozen=True)
class Measured:
    """One entry, and both of our networks for it."""

    entry: dict[str, Any]
    config: MSDNetConfig
    lazy: MSDNet
    plain: MSDNet


@pytest.fixture(scope="module", params=ENTRIES)
def measured(request: pytest.FixtureRequest) -> Iterator[Measured]:
    entry = ENTRIES[request.param]
    config = config_of(entry["args"])
    with shapes_only():
        yield Measured(entry, config, MSDNet(config).eval(), MSDNet(config, plain_plan).eval())


def direct(net: MSDNet) -> list[int]:
    totals = [0]
    with count_macs(net) as count, torch.inference_mode():
        for k in range(net.num_exits):
            net.direct(k, image(net))
            totals.append(count.macs)
    return [after - before for before, after in pairwise(totals)]


def test_the_stages_cost_what_lazy_evaluation_of_the_public_code_costs(measured: Measured) -> None:
    assert staged(measured.lazy) == measured.entry["lazy_cumulative"]


def test_going_straight_to_an_exit_costs_what_it_alone_needs(measured: Measured) -> None:
    assert direct(measured.lazy) == measured.entry["lazy_direct"]


def test_the_plain_stages_cost_what_the_public_code_costs(measured: Measured) -> None:
    assert staged(measured.plain) == measured.entry["plain_cumulative"]


def test_the_parameters_are_those_of_the_public_code_without_what_nothing_uses(measured: Measured) -> None:
    config = measured.config
    # The public code's 7x7 stem has a bias in front of its norm (seed_facts 1.3); ours has none.
    stem_bias = config.channels * config.scale_factors[0] if config.stem == "large" else 0
    assert parameters(measured.plain) == measured.entry["params"] - stem_bias

    built = {key for key, _ in measured.lazy.cells()}
    left_out = [cell for key, cell in measured.plain.cells() if key not in built]
    convolutions = [module for cell in left_out for module in cell.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == len(measured.entry["unused"])
    assert parameters(measured.lazy) == parameters(measured.plain) - sum(map(parameters, left_out))


def test_the_only_network_with_unused_weights_is_without_its_one_unused_cell() -> None:
    assert [name for name, entry in ENTRIES.items() if entry["unused"]] == ["cifar10_tiny_b3_base2_step1_even_nch8_gr4"]
    config = config_of(ENTRIES["cifar10_tiny_b3_base2_step1_even_nch8_gr4"]["args"])

    def cells(stages: Any) -> set[tuple[int, int]]:
        return {cell.key for stage in stages for cell in stage.cells}

    assert cells(plain_plan(config)) - cells(plan(config)) == {(4, 1)}
    with torch.device("meta"):
        spared = parameters(MSDNet(config, plain_plan)) - parameters(MSDNet(config))
    bottleneck, convolution = 20 * 16 + 2 * 16, 16 * 8 * 9 + 2 * 8
    assert spared == bottleneck + convolution


def test_there_are_fifty_networks_to_compare_with() -> None:
    assert len(ENTRIES) == 50
