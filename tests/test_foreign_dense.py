"""Checkpoints of public DenseNet and CondenseNet code: the stored goldens, and what is written for that code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import offramp
from offramp.classifier import Classifier
from offramp.errors import ArtifactError, ConfigError
from offramp.nets.condensenet import CondenseNet, CondenseNetConfig, convert
from offramp.nets.densenet import DenseNet, DenseNetConfig
from offramp.nets.foreign import condensenet_pytorch, densenet_pytorch
from offramp.nets.pruning import condense, learned_convs
from offramp.torchvision_import import import_torchvision
from tiny import make_net
from tiny import offramp as command

ORACLES = Path(__file__).parent / "oracles"
DENSE = DenseNetConfig(layers=(2, 3), growth_rates=(4, 4), channels=8, image_size=16, num_classes=5)
CONDENSE = CondenseNetConfig(
    layers=(2, 2), growth_rates=(8, 16), groups=4, condense_factor=4, groups_3x3=4, image_size=16, num_classes=5
)
GOLDENS = [
    ("efficient_densenet.dat", "efficient_densenet.npz", "logits"),
    ("condensenet_training.pth.tar", "condensenet.npz", "logits_training"),
    ("condensenet_converted.pth.tar", "condensenet.npz", "logits_converted"),
]
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def answers(net: nn.Module) -> Tensor:
    with torch.inference_mode():
        result: Tensor = net.eval()(IMAGES)
    return result


def condensed(config: CondenseNetConfig = CONDENSE, progress: float = 1.0) -> CondenseNet:
    torch.manual_seed(0)
    net = CondenseNet(config)
    condense(net, progress)
    return net


def state_of(path: Path) -> dict[str, Any]:
    found = torch.load(path, weights_only=True)
    state: dict[str, Any] = found.get("state_dict", found)
    return state


@pytest.mark.parametrize(("file", "arrays", "name"), GOLDENS)
def test_the_goldens_give_the_logits_of_public_code(file: str, arrays: str, name: str) -> None:
    golden = np.load(ORACLES / arrays)
    classifier = offramp.import_checkpoint(ORACLES / file)
    with torch.inference_mode():
        logits = classifier.net(torch.from_numpy(golden["images"]))[0].numpy()
    assert np.abs(logits - golden[name]).max() <= 1e-5 * np.abs(golden[name]).max()


@pytest.mark.parametrize(
    ("style", "changes"),
    [
        ("efficient", {}), ("efficient", {"stem": "large"}), ("efficient", {"reduction": 0.7}),
        ("efficient", {"layers": (16, 16, 16), "growth_rates": (12,) * 3, "channels": 24, "reduction": 0.6}),
        ("torchvision", {"stem": "large"}),
    ],
)  # fmt: skip
def test_a_densenet_comes_back_from_its_file(
    style: densenet_pytorch.Style, changes: dict[str, Any], shake: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    net = DENSE.replace(**changes).build()
    shake(net)
    densenet_pytorch.write(net, tmp_path / "file", style)
    again = densenet_pytorch.read(tmp_path / "file", image_size=16).net
    assert torch.equal(answers(again), answers(net))
    last = {"efficient": "features.norm_final.weight", "torchvision": "features.norm5.weight"}
    assert last[style] in state_of(tmp_path / "file")


def test_the_file_has_the_names_and_shapes_of_public_code(tmp_path: Path) -> None:
    for name in ("efficient_densenet.dat", "condensenet_training.pth.tar", "condensenet_converted.pth.tar"):
        public = state_of(ORACLES / name)
        net = offramp.import_checkpoint(ORACLES / name).net
        if isinstance(net, DenseNet):
            densenet_pytorch.write(net, tmp_path / name)
        else:
            condensenet_pytorch.write(net, tmp_path / name)
        ours = state_of(tmp_path / name)
        assert {key: (value.shape, value.dtype) for key, value in ours.items()} == {
            key: (value.shape, value.dtype) for key, value in public.items()
        }
        assert all(torch.equal(ours[key], value) for key, value in public.items())


def test_files_that_torchvision_once_published_have_dots_in_their_names(tmp_path: Path) -> None:
    net = DENSE.replace(stem="large").build()
    densenet_pytorch.write(net, tmp_path / "new", "torchvision")
    old = {
        key.replace("norm1", "norm.1")
        .replace("norm2", "norm.2")
        .replace("conv1", "conv.1")
        .replace("conv2", "conv.2"): value
        for key, value in state_of(tmp_path / "new").items()
        if not key.endswith("num_batches_tracked")
    }
    torch.save(old, tmp_path / "old")
    assert torch.equal(answers(densenet_pytorch.read(tmp_path / "old", image_size=16).net), answers(net))


def test_torchvisions_own_networks_are_read(tmp_path: Path) -> None:
    models = import_torchvision("torchvision.models", "this test")
    for name, ours in (("densenet121", "densenet-121"), ("densenet161", "densenet-161")):
        torch.manual_seed(0)
        theirs = getattr(models, name)(weights=None).eval()
        torch.save(theirs.state_dict(), tmp_path / name)
        net = offramp.import_checkpoint(tmp_path / name).net
        assert net.config == offramp.create(ours).config
        images = torch.randn(1, 3, 64, 64)
        with torch.inference_mode():
            expected = theirs(images)
            assert float((net(images)[0] - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("progress", [0.3, 1.0])
def test_a_condensenet_comes_back_from_its_file_with_groups_and_factor(progress: float, tmp_path: Path) -> None:
    for config in (
        CONDENSE,
        CONDENSE.replace(reduction=0.5),
        CONDENSE.replace(groups=2, groups_3x3=2, condense_factor=4),
    ):
        net = condensed(config, progress)
        condensenet_pytorch.write(net, tmp_path / "file")
        again = condensenet_pytorch.read(tmp_path / "file", image_size=16).net
        assert again.config == config
        assert torch.equal(answers(again), answers(net))
        assert [conv.stage for conv in learned_convs(again)] == [conv.stage for conv in learned_convs(net)]


def test_a_file_that_has_dropped_nothing_asks_for_groups_and_factor(tmp_path: Path) -> None:
    net = condensed(progress=0)
    condensenet_pytorch.write(net, tmp_path / "file")
    with pytest.raises(ConfigError, match="shows neither groups nor condensation factor; give both"):
        offramp.import_checkpoint(tmp_path / "file")
    again = condensenet_pytorch.read(tmp_path / "file", image_size=16, groups=2, condense_factor=8).net
    assert (again.config.groups, again.config.condense_factor) == (2, 8)
    assert torch.equal(answers(again), answers(net))


def test_converted_and_plain_networks_come_back_too(tmp_path: Path) -> None:
    made = convert(condensed(), ["grouped"] * 4, condense_classifier=True)
    plain = CondenseNet(CONDENSE.replace(learned=False, reduction=0.5))
    for net in (made, plain):
        condensenet_pytorch.write(net, tmp_path / "file")
        again = condensenet_pytorch.read(tmp_path / "file", image_size=16).net
        assert again.config == net.config
        assert torch.equal(answers(again), answers(net))


def test_five_blocks_are_taken_for_imagenet_and_that_is_said(tmp_path: Path) -> None:
    config = CONDENSE.replace(layers=(1,) * 5, growth_rates=(8,) * 5, stem_stride=2, image_size=224)
    condensenet_pytorch.write(condensed(config), tmp_path / "file")
    found = condensenet_pytorch.read(tmp_path / "file")
    assert found.net.config == config
    assert found.settled == ("strides are not stored; 5 blocks are taken for ImageNet",)


def test_the_commands_write_and_read_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = DENSE.replace(stem="large").build().eval()
    Classifier(net, tuple("abcde"), None).save(tmp_path / "model")
    file = tmp_path / "weights.pth"
    assert command("export-checkpoint", tmp_path / "model", "--for", "torchvision", "--out", file) == 0
    assert command("import-checkpoint", file, "--out", tmp_path / "again") == 0
    assert "wrote" in capsys.readouterr().out
    torch.testing.assert_close(answers(offramp.load(tmp_path / "again", runtime="eager").net), answers(net))
    assert command("export-checkpoint", tmp_path / "model", "--for", "torchvision", "--out", file) == 2
    assert command("export-checkpoint", tmp_path / "model", "--for", "condensenet", "--out", tmp_path / "other") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "is there already; name another file" in said
    assert "has only CondenseNets; this network is another" in said


def spoilt(path: Path, spoil: Callable[[dict[str, Any]], None]) -> Path:
    state = state_of(path)
    spoil(state)
    torch.save(state, path)
    return path


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    densenet_pytorch.write(DENSE.build(), tmp_path / "dense")
    condensenet_pytorch.write(condensed(), tmp_path / "condense")
    made = convert(condensed(), ["grouped"] * 4, condense_classifier=True)
    condensenet_pytorch.write(made, tmp_path / "converted")
    prefix = "module.features.denseblock_1.denselayer_1.conv_1."

    def shuffle_mask(state: dict[str, Any]) -> None:
        state[f"{prefix}_mask"] = torch.rand(32, 16, 1, 1).round()

    cases: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
        ("dense", lambda s: s.pop("classifier.weight"), "no stem or no classifier"),
        ("dense", lambda s: s.pop("features.norm_final.bias"), "1 missing (features.norm_final.bias)"),
        ("dense", lambda s: s.update(more=torch.ones(1)), "1 left over (more)"),
        ("condense", shuffle_mask, "its masks are not those of learned group convolutions"),
        ("condense", lambda s: s.pop(f"{prefix}_stage"), "does not tell its stage"),
        ("condense", lambda s: s.pop(f"{prefix}conv.weight"), "has no first dense layer"),
        ("condense", lambda s: s.update({f"{prefix}conv.weight": torch.ones(4)}), "has 1 axes, not 4"),
        ("condense", lambda s: s.update({f"{prefix}_count": torch.ones(2)}), "does not tell its stage"),
        (
            "dense",
            lambda s: s.update({"features.denseblock1.denselayer1.conv2.weight": torch.ones(4)}),
            "has no dense layers; give a whole",
        ),
        ("converted", lambda s: s.update({f"{prefix}index": torch.tensor(3)}), "has 0 axes, not 1"),
        ("converted", lambda s: s[f"{prefix}index"].fill_(99), "points beyond 16 channels"),
    ]
    for name, spoil, message in cases:
        path = tmp_path / f"{name}-spoilt"
        path.write_bytes((tmp_path / name).read_bytes())
        with pytest.raises(ArtifactError) as caught:
            offramp.import_checkpoint(spoilt(path, spoil))
        assert message in str(caught.value)
        assert str(path) in str(caught.value)


def test_weights_of_no_known_format_are_refused_with_all_formats(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.ones(1, 1, 1, 1)}, tmp_path / "other")
    with pytest.raises(
        ArtifactError, match=r"\(conv.weight\) are of none of .*CondenseNet.*MSDNet-PyTorch; give a file"
    ):
        offramp.import_checkpoint(tmp_path / "other")


@pytest.mark.parametrize(
    ("file", "hints", "message"),
    [
        ("efficient_densenet.dat", {"groups": 4}, "groups=4: says nothing about files of gpleiss/efficient_densenet_pytorch"),
        ("condensenet_training.pth.tar", {"spacing": "even"}, "spacing=even: says nothing about files of ShichenLiu"),
        ("condensenet_training.pth.tar", {"groups": 2}, "the file shows 4 and 4; leave them out"),
        ("msdnet_even.pth.tar", {"condense_factor": 2}, "condense_factor=2: says nothing about files of kalviny"),
    ],
)  # fmt: skip
def test_what_a_file_has_no_use_for_or_contradicts_is_refused(file: str, hints: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        offramp.import_checkpoint(ORACLES / file, **hints)
    assert message in str(caught.value)


def test_what_public_code_cannot_build_is_not_written(tmp_path: Path) -> None:
    cases: list[tuple[Callable[[], None], str]] = [
        (lambda: densenet_pytorch.write(DENSE.replace(exit_layers=(2,)).build(), tmp_path / "x"), "one exit"),
        (lambda: densenet_pytorch.write(DENSE.replace(bottleneck_factor=0).build(), tmp_path / "x"), "bottlenecks"),
        (lambda: densenet_pytorch.write(make_net(), tmp_path / "x"), "this network is another"),
        (lambda: densenet_pytorch.write(DENSE.replace(growth_rates=(4, 8)).build(), tmp_path / "x"), "one growth rate"),
        (
            lambda: densenet_pytorch.write(DENSE.build(), tmp_path / "x", "torchvision"),
            "stem=small: torchvision's DenseNets have large; write it for efficient-densenet",
        ),
        (
            lambda: condensenet_pytorch.write(convert(condensed(), ["dense"] * 4), tmp_path / "x"),
            r"--form grouped\) and half of the classifier .*--condense-classifier\); or write this one as it was",
        ),
    ]
    for act, message in cases:
        with pytest.raises(ConfigError, match=message):
            act()
    assert not (tmp_path / "x").exists()
