"""Checkpoints of kalviny/MSDNet-PyTorch: the stored goldens, and files written and run here by the format's own rules."""

import json
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from msdnet_oracles import config_of
from offramp.catalog import entries
from offramp.errors import ArtifactError, ConfigError
from offramp.nets.foreign._msdnet_infer import infer
from offramp.nets.foreign.msdnet_pytorch import read
from offramp.nets.msdnet import VARIANTS, MSDNetConfig, plain_plan
from offramp.nets.msdnet.plan import CellPlan

ORACLES = Path(__file__).parent / "oracles"
COUNTS: dict[str, Any] = json.loads((ORACLES / "msdnet_counts.json").read_text())["entries"]
SMALL = MSDNetConfig(exits=3, base=2, step=1, channels=4, growth_rate=2)
State = dict[str, Tensor]
Shape = tuple[int, ...]


# ---- the format, written down a second time: names and shapes from a plan, and a network run from its names alone


def unit(conv: str, norm: str, *shape: int) -> Iterator[tuple[str, Shape]]:
    yield f"{conv}.weight", shape
    for name in ("weight", "bias", "running_mean", "running_var"):
        yield f"{norm}.{name}", shape[:1]
    yield f"{norm}.num_batches_tracked", ()


def path(prefix: str, config: MSDNetConfig, scale: int, inside: int, out: int) -> Iterator[tuple[str, Shape]]:
    if not config.bottleneck:
        yield from unit(f"{prefix}.net.0", f"{prefix}.net.1", out, inside, 3, 3)
        return
    middle = min(inside, out * config.bottleneck_factors[scale])
    yield from unit(f"{prefix}.net.0", f"{prefix}.net.1", middle, inside, 1, 1)
    yield from unit(f"{prefix}.net.3", f"{prefix}.net.4", out, middle, 3, 3)


def seed(config: MSDNetConfig, cell: CellPlan) -> Iterator[tuple[str, Shape]]:
    prefix = f"blocks.0.0.layers.{cell.scale}"
    if config.stem == "large" and cell.scale == 0:
        yield from unit(f"{prefix}.0", f"{prefix}.1", cell.new_channels, cell.in_channels, 7, 7)
        yield f"{prefix}.0.bias", (cell.new_channels,)
    else:
        yield from unit(f"{prefix}.net.0", f"{prefix}.net.1", cell.new_channels, cell.in_channels, 3, 3)


def layer(config: MSDNetConfig, place: str, next_place: str, cells: list[CellPlan]) -> Iterator[tuple[str, Shape]]:
    for index, cell in enumerate(sorted(cells, key=lambda cell: cell.scale)):
        prefix, out = f"blocks.{place}.layers.{index}", cell.new_channels // (2 if cell.finer_channels else 1)
        if cell.finer_channels:
            yield from path(f"{prefix}.conv_down", config, cell.scale - 1, cell.finer_channels, out)
        yield from path(f"{prefix}.conv_normal", config, cell.scale, cell.in_channels, out)
        if cell.transition_channels:
            prefix = f"blocks.{next_place}.m.{index}.net"
            inside = cell.in_channels + cell.new_channels
            yield from unit(f"{prefix}.0", f"{prefix}.1", cell.transition_channels, inside, 1, 1)


def classifier(config: MSDNetConfig, k: int, width: int) -> Iterator[tuple[str, Shape]]:
    hidden = width if config.stem == "large" else 128
    for index, inside in enumerate((width, hidden)):
        prefix = f"classifier.{k}.m.{index}.net"
        yield from unit(f"{prefix}.0", f"{prefix}.1", hidden, inside, 3, 3)
    yield f"classifier.{k}.linear.weight", (config.num_classes, hidden)
    yield f"classifier.{k}.linear.bias", (config.num_classes,)


def shapes_of(config: MSDNetConfig) -> dict[str, Shape]:
    found: list[tuple[str, Shape]] = []
    for block, stage in enumerate(plain_plan(config)):
        position = 0
        for number in sorted({cell.layer for cell in stage.cells}):
            cells = [cell for cell in stage.cells if cell.layer == number]
            if number == 0:
                found += [item for cell in cells for item in seed(config, cell)]
            else:
                found += layer(config, f"{block}.{position}", f"{block}.{position + 1}", cells)
            position += 1 + any(cell.transition_channels > 0 for cell in cells)
        found += classifier(config, block, stage.exit_channels)
    return dict(found)


def weights_of(config: MSDNetConfig) -> State:
    generator = torch.Generator().manual_seed(3)
    state = {}
    for key, shape in shapes_of(config).items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif len(shape) > 1:
            state[key] = torch.randn(shape, generator=generator) * (2 / np.prod(shape[1:])) ** 0.5
        else:
            state[key] = torch.rand(shape, generator=generator) + 0.5
    return state


def convolve(state: State, conv: str, norm: str, x: Tensor, stride: int = 1) -> Tensor:
    weight, bias = state[f"{conv}.weight"], state.get(f"{conv}.bias")
    x = F.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2)
    mean, var, scale, shift = (state[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    return F.relu(F.batch_norm(x, mean, var, scale, shift))


def follow(state: State, prefix: str, x: Tensor, stride: int) -> Tensor:
    if f"{prefix}.net.3.weight" not in state:
        return convolve(state, f"{prefix}.net.0", f"{prefix}.net.1", x, stride)
    x = convolve(state, f"{prefix}.net.0", f"{prefix}.net.1", x)
    return convolve(state, f"{prefix}.net.3", f"{prefix}.net.4", x, stride)


def count(state: State, pattern: str) -> int:
    return len({match[1] for key in state if (match := re.match(pattern, key))})


def seed_by_hand(state: State, x: Tensor) -> list[Tensor]:
    maps: list[Tensor] = []
    for scale in range(count(state, r"blocks\.0\.0\.layers\.(\d+)\.")):
        prefix = f"blocks.0.0.layers.{scale}"
        if f"{prefix}.0.weight" in state:
            x = F.max_pool2d(convolve(state, f"{prefix}.0", f"{prefix}.1", x, stride=2), 3, 2, 1)
        else:
            x = convolve(state, f"{prefix}.net.0", f"{prefix}.net.1", x, stride=2 if scale else 1)
        maps.append(x)
    return maps


def layer_by_hand(state: State, prefix: str, maps: list[Tensor]) -> list[Tensor]:
    kept = count(state, re.escape(prefix) + r"\.layers\.(\d+)\.")
    if not kept:
        return [convolve(state, f"{prefix}.m.{i}.net.0", f"{prefix}.m.{i}.net.1", x) for i, x in enumerate(maps)]
    dropped = len(maps) - kept
    after = []
    for index in range(kept):
        own, here = maps[index + dropped], f"{prefix}.layers.{index}"
        finer = [follow(state, f"{here}.conv_down", maps[index + dropped - 1], 2)] if index + dropped else []
        after.append(torch.cat([own, *finer, follow(state, f"{here}.conv_normal", own, 1)], dim=1))
    return after


def run_by_hand(state: State, images: Tensor) -> Tensor:
    """Logits (K, N, C), computed straight from the names in a state dict."""
    maps, logits = seed_by_hand(state, images), []
    for k in range(count(state, r"classifier\.(\d+)\.")):
        for position in range(count(state, rf"blocks\.{k}\.(\d+)\.")):
            if (k, position) != (0, 0):
                maps = layer_by_hand(state, f"blocks.{k}.{position}", maps)
        x = maps[-1]
        for index in range(2):
            x = convolve(state, f"classifier.{k}.m.{index}.net.0", f"classifier.{k}.m.{index}.net.1", x, stride=2)
        head = f"classifier.{k}.linear"
        logits.append(F.linear(x.mean((2, 3)), state[f"{head}.weight"], state[f"{head}.bias"]))
    return torch.stack(logits)


def saved(folder: Path, content: object, name: str = "checkpoint.pth.tar") -> Path:
    torch.save(content, folder / name)
    return folder / name


def refusal(file: Path) -> str:
    """The one line with which a file is refused, without its path."""
    with pytest.raises(ArtifactError) as caught:
        read(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert message.isprintable()  # one line, no escapes
    return message.removeprefix(f"{file}: ")


# ---- the goldens


@pytest.mark.parametrize("name", ["even", "lin_grow"])
def test_a_golden_checkpoint_answers_as_the_public_code_did(name: str) -> None:
    golden = np.load(ORACLES / f"msdnet_{name}.npz")
    images, wanted = torch.from_numpy(golden["images"]), torch.from_numpy(golden["logits"])
    net = read(ORACLES / f"msdnet_{name}.pth.tar").net
    assert not net.training
    with torch.inference_mode():
        staged = net(images)
        direct = torch.stack([net.direct(k, images) for k in range(net.num_exits)])
    for found in (staged, direct):
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("name", ["even", "lin_grow"])
def test_the_options_of_a_golden_are_told_from_its_weights(name: str) -> None:
    args = json.loads((ORACLES / f"msdnet_{name}.json").read_text())["args"]
    assert read(ORACLES / f"msdnet_{name}.pth.tar").net.config == config_of(args)


def test_cells_that_no_exit_uses_are_dropped_by_name() -> None:
    assert read(ORACLES / "msdnet_even.pth.tar").dropped == (
        "blocks.2.0.layers.0.conv_normal.net.0.weight",
        "blocks.2.0.layers.0.conv_normal.net.3.weight",
    )
    assert read(ORACLES / "msdnet_lin_grow.pth.tar").dropped == ()


# ---- what is told from shapes


@pytest.mark.parametrize("name", COUNTS)
def test_every_published_configuration_is_told_from_its_shapes(name: str) -> None:
    config = config_of(COUNTS[name]["args"])
    assert infer(shapes_of(config)).config == config


@pytest.mark.parametrize("name", [name for name in VARIANTS if "digits" not in name])
def test_every_variant_of_our_own_is_told_from_its_shapes(name: str) -> None:
    assert infer(shapes_of(VARIANTS[name])).config == VARIANTS[name]


@st.composite
def configs(draw: st.DrawFn) -> MSDNetConfig:
    scales = draw(st.integers(1, 4))
    return MSDNetConfig(
        exits=draw(st.integers(1, 4)),
        base=draw(st.integers(scales, 5)),
        step=draw(st.integers(1, 3)),
        spacing=draw(st.sampled_from(["even", "linear"])),
        channels=draw(st.integers(8, 40)),
        growth_rate=2 * draw(st.integers(1, 8)),
        scale_factors=tuple(draw(st.lists(st.integers(1, 6), min_size=scales, max_size=scales))),
        bottleneck_factors=tuple(draw(st.lists(st.integers(1, 6), min_size=scales, max_size=scales))),
        bottleneck=draw(st.booleans()),
        reduction=draw(st.sampled_from([0.0, 0.25, 0.29, 0.5, 2 / 3, 0.8, 1.0])),
        pruning=draw(st.sampled_from(["max", "min"])),
        stem=draw(st.sampled_from(["small", "large"])),
        image_size=224,
    )


@settings(derandomize=True, deadline=None, max_examples=80)
@given(configs())
def test_what_is_told_makes_exactly_the_given_shapes(config: MSDNetConfig) -> None:
    told = infer(shapes_of(config)).config
    assert shapes_of(told) == shapes_of(config)
    assert (told.exits, told.base, told.num_layers) == (config.exits, config.base, config.num_layers)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"exits": 1}, "spacing=even, step=1 (assumed; so few exits fit even and linear)"),
        ({"exits": 2, "step": 3}, "spacing=even, step=3 (assumed; so few exits fit even and linear)"),
        ({}, "reduction=0.5 (assumed; any from 0.5 up to 0.6 gives the same widths)"),
        ({"reduction": 0.8}, "reduction=0.8 (assumed; any from 0.8 up to 0.9 gives the same widths)"),
        (
            {"scale_factors": (1,), "bottleneck_factors": (1,)},
            "reduction=0.5 (assumed; this network has no place for a transition)",
        ),
        (
            {"scale_factors": (1,), "bottleneck_factors": (1,)},
            "pruning=max (assumed; max and min give the same cells here)",
        ),
        (
            {"bottleneck_factors": (1, 2, 64)},
            "bottleneck_factors[2]=8 (assumed; every bottleneck there is as wide as its input)",
        ),
        ({"bottleneck": False}, "bottleneck_factors=(1, 2, 4) (assumed; there are no bottlenecks)"),
        (
            {"channels": 8, "growth_rate": 8, "reduction": 0.0},
            "scale_factors=(1, 2, 4) (assumed; channels and growth_rate may share a factor with them)",
        ),
        ({}, "image_size=32 (assumed; weights do not show it)"),
        ({"stem": "large", "image_size": 224}, "image_size=224 (assumed; weights do not show it)"),
    ],
)
def test_what_a_file_leaves_open_is_said(changes: dict[str, Any], sentence: str) -> None:
    assert sentence in infer(shapes_of(SMALL.replace(**changes))).settled


def test_spacing_and_image_size_can_be_given_where_a_file_leaves_them_open(tmp_path: Path) -> None:
    two_exits = SMALL.replace(exits=2, step=2, spacing="linear", image_size=48)
    imported = read(saved(tmp_path, weights_of(two_exits)), spacing="linear", image_size=48)
    assert imported.net.config == two_exits
    assert "spacing=linear, step=2 (given; so few exits fit even and linear)" in imported.settled
    assert "image_size=48 (given; weights do not show it)" in imported.settled


def test_a_spacing_that_contradicts_the_file_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^spacing=linear: blocks of 2, 1, 1 layers fit even only; leave the option"):
        infer(shapes_of(SMALL), spacing="linear")


def test_an_image_size_below_one_pixel_at_the_coarsest_scale_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^image_size=2: "):
        infer(shapes_of(SMALL), image_size=2)


# ---- what is read computes what the file computes


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        SMALL.replace(pruning="min", base=4, exits=4),
        SMALL.replace(reduction=0.0),
        SMALL.replace(reduction=1.0),
        SMALL.replace(reduction=0.37, channels=9, step=2),
        SMALL.replace(bottleneck=False),
        SMALL.replace(spacing="linear", base=1),
        SMALL.replace(exits=1, base=5, bottleneck_factors=(3, 1, 2)),
        SMALL.replace(scale_factors=(2, 4, 6), channels=3, growth_rate=3),
        SMALL.replace(scale_factors=(2,), bottleneck_factors=(1,), image_channels=1, num_classes=2),
        SMALL.replace(stem="large", image_size=224),
        SMALL.replace(
            stem="large", scale_factors=(1, 2, 4, 4), bottleneck_factors=(1, 2, 4, 4), base=4, image_size=224
        ),
    ],
    ids=lambda config: ",".join(
        f"{name}={getattr(config, name)}" for name in vars(SMALL) if getattr(config, name) != getattr(SMALL, name)
    ),
)
def test_the_network_read_answers_as_its_file_run_by_hand(config: MSDNetConfig, tmp_path: Path) -> None:
    state = weights_of(config)
    net = read(saved(tmp_path, state)).net
    assert shapes_of(net.config) == shapes_of(config)
    images = torch.randn(2, config.image_channels, 64, 64, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        wanted, found = run_by_hand(state, images), net(images)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_the_bias_of_the_large_stem_is_folded_into_its_norm(tmp_path: Path) -> None:
    state = weights_of(SMALL.replace(stem="large", image_size=224))
    imported = read(saved(tmp_path, state))
    stem = imported.net.get_submodule("stages.0.cells.layer0_scale0.conv.0")
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        wanted = convolve(state, "blocks.0.0.layers.0.0", "blocks.0.0.layers.0.1", images, stride=2)
        torch.testing.assert_close(stem(images), wanted)
    assert imported.folded == ("blocks.0.0.layers.0.0.bias",)


def test_the_same_network_comes_from_every_way_of_storing_it(tmp_path: Path) -> None:
    state = weights_of(SMALL)
    wrapped = {f"module.{key}": value for key, value in state.items()}
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    wanted = read(saved(tmp_path, state)).net.state_dict()
    for content in (wrapped, {"epoch": 7, "arch": "msdnet", "state_dict": wrapped, "best_prec1": 71.5}, old):
        found = read(saved(tmp_path, content)).net.state_dict()
        assert found.keys() == wanted.keys()
        assert all(found[key].equal(wanted[key]) for key in wanted if not key.endswith("num_batches_tracked"))
    torch.save(wrapped, tmp_path / "before_1.6.pth", _use_new_zipfile_serialization=False)
    assert read(tmp_path / "before_1.6.pth").net.config == SMALL


def test_batch_counters_are_kept_where_they_are_stored(tmp_path: Path) -> None:
    state = weights_of(SMALL)
    del state["classifier.2.m.1.net.1.num_batches_tracked"]
    counters = {
        key: int(value)
        for key, value in read(saved(tmp_path, state)).net.state_dict().items()
        if key.endswith("num_batches_tracked")
    }
    assert counters.pop("stages.2.exit.features.1.1.num_batches_tracked") == 0
    assert set(counters.values()) == {7}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights_of(SMALL).items()}
    net = read(saved(tmp_path, state)).net
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert net.get_parameter("stages.0.exit.linear.bias").equal(state["classifier.0.linear.bias"].float())


def test_the_network_read_can_be_trained_and_draws_nothing_at_random(tmp_path: Path) -> None:
    file = saved(tmp_path, weights_of(SMALL))
    before = torch.get_rng_state()
    net = read(file).net.train()
    assert torch.get_rng_state().equal(before)
    net(torch.zeros(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_the_reader_is_found_by_the_name_of_its_format() -> None:
    assert entries("nets.foreign", "READERS")["msdnet-pytorch"].source == "kalviny/MSDNet-PyTorch"


# ---- what is refused


class Evil:
    """Leaves a marker when it is unpickled by the careless."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_wants_to_run_code_is_refused_and_does_not(zipped: bool, tmp_path: Path) -> None:
    file, marker = tmp_path / "evil.pth", tmp_path / "marker"
    torch.save({"state_dict": weights_of(SMALL), "x": Evil(marker)}, file, _use_new_zipfile_serialization=zipped)
    name = f"{os.system.__module__}.system"
    assert refusal(file) == (
        f"wants to load '{name}', and only tensors are read from a checkpoint; "
        "where you trust its origin, load it there and save its state_dict alone"
    )
    assert not marker.exists()


def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    file, marker = tmp_path / "evil.pkl", tmp_path / "marker"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        file.write_bytes(pickle.dumps(Evil(marker), protocol))
        refusal(file)
    assert not marker.exists()


def test_a_whole_pickled_network_is_refused_by_the_name_of_its_class(tmp_path: Path) -> None:
    said = refusal(saved(tmp_path, {"state_dict": torch.nn.Linear(2, 2)}))
    assert said.startswith("wants to load 'torch.nn.modules.linear.Linear', and only tensors are read")


DAMAGED = "cannot be read as a PyTorch checkpoint; it is damaged, cut short or of another kind, get it anew"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_a_file_cut_short_is_refused(zipped: bool, share: float, tmp_path: Path) -> None:
    torch.save(weights_of(SMALL), tmp_path / "whole", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "part").write_bytes(whole[: int(share * len(whole))])
    assert refusal(tmp_path / "part") == DAMAGED


@pytest.mark.parametrize("content", [b"", b"epoch\tlr\ttrain_loss\n" * 9, bytes(range(256)), b"PK\x03\x04 and no more"])
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "renamed.pth").write_bytes(content)
    assert refusal(tmp_path / "renamed.pth") == DAMAGED


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model_best.t7", b"anything"),
        ("model_best.T7", b"anything"),
        ("table.pth", b"\x03\0\0\0\x01\0\0\0\x02\0\0\0"),
        ("object.pth", b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1"),
        ("ascii.pth", b"4\n1\n3\nV 1\n"),
    ],
)
def test_a_lua_torch_file_is_refused_by_suffix_or_content(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    wanted = "Lua Torch files (.t7) cannot be read; convert it to a PyTorch state dict first"
    assert refusal(tmp_path / name) == wanted


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing.pth") == "no such file; check the path"
    assert refusal(tmp_path) == "cannot be read (Is a directory); give a checkpoint file"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds no state dict but list; give a checkpoint of weights"),
        ({}, "holds no state dict but dict; give a checkpoint of weights"),
        ({"state_dict": None}, "holds no state dict but NoneType; give a checkpoint of weights"),
        ({"epoch": 3}, "'epoch' holds no weights; give a checkpoint whose state dict has nothing else"),
        ({7: torch.ones(1)}, "7 is no name of a weight; give a checkpoint of weights"),
        ({"a\nb": torch.ones(1)}, r"'a\nb' is no name of a weight; give a checkpoint of weights"),
        (
            {"w": torch.ones(3, dtype=torch.int8)},
            "'w' is torch.int8, weights are floating-point; give an unquantised one",
        ),
        ({"w": torch.eye(2).to_sparse()}, "'w' holds no weights; give a checkpoint whose state dict has nothing else"),
        ({"w": torch.ones(0)}, "'w' holds no weights; give a checkpoint whose state dict has nothing else"),
    ],
)
def test_what_is_no_state_dict_is_refused(content: object, said: str, tmp_path: Path) -> None:
    assert refusal(saved(tmp_path, content)) == said


def test_a_tiny_file_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    said = refusal(saved(tmp_path, {"w": torch.zeros(()).expand(10**7, 10**7)}))
    assert said == "'w' holds no weights; give a checkpoint whose state dict has nothing else"


def test_the_state_dict_of_another_network_is_refused(tmp_path: Path) -> None:
    said = refusal(saved(tmp_path, torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2)).state_dict()))
    assert said == (
        "blocks.0.0.layers.0 (convolution) is missing among '0.bias' and others, so this is no whole MSDNet of "
        "kalviny/MSDNet-PyTorch; check which network it is"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(value: float, tmp_path: Path) -> None:
    state = weights_of(SMALL)
    state["blocks.1.0.layers.1.conv_down.net.4.running_var"][0] = value
    assert refusal(saved(tmp_path, state)) == (
        "'blocks.1.0.layers.1.conv_down.net.4.running_var' has values that are not finite; "
        "its training diverged, give another"
    )


def test_what_is_missing_left_over_or_of_another_shape_is_listed(tmp_path: Path) -> None:
    state = weights_of(SMALL)
    del state["blocks.0.1.layers.0.conv_normal.net.4.running_mean"]
    for k in range(3):
        state[f"classifier.{k}.linear.scale"] = torch.ones(1)
        state[f"classifier.{k}.extra"] = torch.ones(1)
    state["classifier.1.linear.weight"] = torch.ones(10, 127)
    assert refusal(saved(tmp_path, state)) == (
        "the nearest MSDNet has other weights: 1 missing (blocks.0.1.layers.0.conv_normal.net.4.running_mean); "
        "6 left over (classifier.0.linear.scale, classifier.0.extra, classifier.1.linear.scale, …); "
        "1 of another shape (classifier.1.linear.weight (10, 127), not (10, 128)); "
        "check that the file is whole and of unchanged kalviny/MSDNet-PyTorch code"
    )


def test_no_weight_may_be_missing(tmp_path: Path) -> None:
    state = weights_of(SMALL)
    for key in [key for key in state if not key.endswith("num_batches_tracked")][::21]:
        rest = {other: value for other, value in state.items() if other != key}
        assert key.removesuffix(".net.0.weight") in refusal(saved(tmp_path, rest))


def test_blocks_that_no_spacing_explains_are_refused(tmp_path: Path) -> None:
    state = weights_of(SMALL.replace(exits=4, base=2, step=2))
    state = {key: value for key, value in state.items() if not key.startswith("blocks.2.1.layers")}
    assert refusal(saved(tmp_path, state)) == (
        "blocks of 2, 2, 1, 2 layers are spaced neither evenly (all alike after the first) nor linearly "
        "(step*k + 1 in block k); check that the file is whole"
    )


def test_widths_that_no_msdnet_has_are_refused_with_the_rule_they_break(tmp_path: Path) -> None:
    state = weights_of(SMALL)
    state["classifier.0.linear.weight"] = torch.ones(1, 128)
    assert refusal(saved(tmp_path, state)) == (
        "no MSDNet has such widths: num_classes=1: an MSDNet wants a whole number of at least 2 here"
    )
