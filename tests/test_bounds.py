"""Bounds in place of norms give the same answers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from offramp.nets.base import MultiExitNet, NetConfig
from offramp.nets.bounds import Bounds, with_bounds
from offramp.nets.condensenet import CondenseNet, CondenseNetConfig, convert
from offramp.nets.densenet import DenseNetConfig
from offramp.nets.folding import ScaleReLU
from offramp.nets.pruning import condense

Shake = Callable[[nn.Module], None]
DENSE = DenseNetConfig(layers=(2, 2), growth_rates=(4, 4), channels=8, image_size=16, num_classes=4)
CONDENSE = CondenseNetConfig(
    layers=(2, 2), growth_rates=(4, 8), groups=2, condense_factor=2, groups_3x3=2, image_size=16, num_classes=4
)
CONFIGS: dict[str, NetConfig] = {
    "densenet": DENSE,
    "densenet without bottlenecks": DENSE.replace(bottleneck_factor=0),
    "densenet with exits": DENSE.replace(exit_layers=(1, 3)),
    "grouped densenet": CONDENSE.replace(learned=False),
    "condensenet": CONDENSE,
    "condensenet with transitions": CONDENSE.replace(reduction=0.5),
}


def built(name: str, shake: Shake, form: str = "") -> MultiExitNet:
    net = CONFIGS[name].build()
    shake(net)
    if not form:
        return net.eval()
    assert isinstance(net, CondenseNet)
    condense(net, 1.0)
    transitions = {"folded": "grouped", "ungrouped": "dense"}
    places = net.config.transition_places
    forms = [transitions.get(form, form) if place in places else form for place in range(net.config.num_learned)]
    return convert(net.eval(), forms)  # type: ignore[arg-type]


def close(found: Tensor, wanted: Tensor, within: float = 1e-5) -> None:
    assert (found - wanted).abs().max() <= within * wanted.abs().max()


def count(net: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(part, kind) for part in net.modules())


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, "") for name in CONFIGS]
    + [
        (name, form)
        for name in ("condensenet", "condensenet with transitions")
        for form in ("grouped", "folded", "dense", "ungrouped")
    ],
)
def test_the_family_answers_the_same(name: str, form: str, shake: Shake) -> None:
    net = built(name, shake, form)
    fused = with_bounds(net.fused())
    convs = count(net.fused(), ScaleReLU) - net.num_exits
    assert count(fused, Bounds) == (1 if name == "densenet without bottlenecks" else convs)  # its transition has one
    images = torch.randn(3, 3, 16, 16)
    with torch.inference_mode():
        close(fused(images), net(images))


@given(
    scale=st.sampled_from([0.0, 1.0, -0.7, 1e-30, -1e-30, 1e-9, -1e-5, 30.0]),
    shift=st.sampled_from([0.0, 0.4, -0.4, 20.0, -20.0]),
)
def test_norms_that_hardly_vary_or_turn_round_answer_the_same(scale: float, shift: float, shake: Shake) -> None:
    net = DENSE.build()
    shake(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight[::2], scale)
            nn.init.constant_(module.bias[::2], shift)
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        close(with_bounds(net.eval().fused())(images), net(images))


@pytest.mark.parametrize("size", [1e-6, 1e8])
def test_features_of_any_size_answer_the_same(size: float, shake: Shake) -> None:
    """Larger maps and norms that make up for it are the same function."""
    net = DENSE.build()
    shake(net)
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        wanted = net.eval()(images)
        for name, value in net.state_dict().items():
            if name.endswith((".conv.weight", ".module.weight")):  # what makes maps that later layers read
                value *= size
            elif "running" in name and "norm2" not in name:
                value *= size if "mean" in name else size**2
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-5 if size > 1 else 0.0
        close(net(images), wanted, 1e-3)  # it is, but for the norms' epsilon
        close(with_bounds(net.fused())(images), net(images))


def test_only_graphs_that_are_computed_in_float32_have_them(shake: Shake, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from offramp.engine.graphs import write_graphs, write_whole

    net = built("densenet", shake)

    def bounded(path: Path) -> bool:
        return "Max" in [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]

    for precision in ("fp32", "bf16"):
        (tmp_path / precision).mkdir()
        write_graphs(net, tmp_path / precision, precision)
    write_whole(net, tmp_path / "to-be-quantised.onnx")
    assert bounded(tmp_path / "fp32" / "stage-0.onnx")
    assert not bounded(tmp_path / "bf16" / "stage-0.onnx")
    assert not bounded(tmp_path / "to-be-quantised.onnx")
