"""CondenseNets: every count of 21 networks equals what was measured on the authors' code, and what they published."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from offramp.nets.condensenet import VARIANTS, CondenseNet, CondenseNetConfig
from offramp.nets.pruning import LearnedGroupConv, learned_convs
from shapes_only import norm_elements, parameters, shapes_only, staged

ENTRIES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "oracles" / "condensenet_counts.json").read_text(encoding="utf-8")
)["entries"]
CONVERTED = [name for name, entry in ENTRIES.items() if "converted" in entry]


def config_of(args: dict[str, Any], model: str) -> CondenseNetConfig:
    """From the options of the authors' program."""
    large = args["data"] == "imagenet"
    return CondenseNetConfig(
        layers=tuple(args["stages"]),
        growth_rates=tuple(args["growth"]),
        bottleneck_factor=args["bottleneck"],
        learned=model != "densenet",
        groups=args["group_1x1"],
        condense_factor=args["condense_factor"],
        groups_3x3=args["group_3x3"],
        reduction=0 if model == "condensenet" else args["reduction"],
        stem_stride=2 if large else 1,
        image_size=224 if large else 32,
        num_classes=args["num_classes"],
    )


def training_form(entry: dict[str, Any]) -> CondenseNetConfig:
    return config_of(entry["args"], entry["model"])


def converted_form(entry: dict[str, Any]) -> CondenseNetConfig:
    config = training_form(entry)
    return config.replace(forms=("grouped",) * config.num_learned, condensed_classifier=True)


@pytest.mark.parametrize("name", ENTRIES)
def test_the_training_form_counts_as_the_authors_code(name: str) -> None:
    entry = ENTRIES[name]
    with shapes_only():
        net = training_form(entry).build()
        assert parameters(net) == entry["training"]["params"]
        assert staged(net) == [entry["training"]["macs"]]
        assert len(learned_convs(net)) == entry["learned"]


@pytest.mark.parametrize("name", CONVERTED)
def test_the_converted_form_counts_as_the_authors_code(name: str) -> None:
    entry = ENTRIES[name]["converted"]
    with shapes_only():
        net = converted_form(ENTRIES[name]).build()
        assert parameters(net) == entry["params"]
        assert staged(net) == [entry["macs"]]
        assert norm_elements(net) == entry["norm_elements"]
        # The authors count only the learned convolutions' entries, or also the classifier's half.
        indexed = sum(buffer.numel() for key, buffer in net.named_buffers() if key.endswith("index"))
        half = sum(buffer.numel() for key, buffer in net.named_buffers() if key.endswith("linear.index"))
        assert entry["index_entries"] in (indexed, indexed - half)


def operations(net: CondenseNet) -> tuple[float, float]:
    """The authors' operations and parameters: those of the paper's tables.

    Operations are MACs of convolutions and of linear layers with their biases, plus what ReLUs (as many as norms) and
    average pools read; a learned convolution counts as one in C, in both, whether it has been condensed or not.
    """
    macs, weights = staged(net)[0], float(parameters(net))
    sizes: list[int] = []
    hooks = [
        conv.register_forward_hook(lambda conv, _given, out: sizes.append(out.numel() * conv.in_channels))
        for conv in learned_convs(net)
    ]
    ops = float(macs + norm_elements(net) + net.config.num_classes)
    for hook in hooks:
        hook.remove()
    spared = 1 - 1 / net.config.condense_factor
    ops -= spared * sum(sizes)
    weights -= spared * sum(conv.weight.numel() for conv in net.modules() if isinstance(conv, LearnedGroupConv))
    return ops, weights


@pytest.mark.parametrize("name", ENTRIES)
def test_operations_and_parameters_counted_as_in_the_paper(name: str) -> None:
    entry = ENTRIES[name]
    with shapes_only():
        net = training_form(entry).build()
        assert isinstance(net, CondenseNet)
        ops, weights = operations(net)
        assert ops + entry["training"]["pool"] == entry["training"]["ops"]
        assert weights == entry["training"]["counted_params"]
        if "converted" in entry:
            made = converted_form(entry).build()
            assert isinstance(made, CondenseNet)
            assert operations(made)[0] + entry["training"]["pool"] == entry["converted"]["ops"]
    if entry["published"] is None or entry["model"] != "condensenet" or entry["args"]["data"] == "cifar100":
        return  # one column of the CIFAR table stands for both data sets; its counts are those with 10 classes
    form = "converted" if entry["args"]["data"] == "imagenet" else "training"
    counted = (entry[form]["ops"], entry[form]["counted_params"] if form == "training" else entry[form]["params"])
    for stated, count in zip(entry["published"], counted, strict=True):
        digits = len(stated.rstrip("M").partition(".")[2])
        assert f"{count / 1e6:.{digits}f}M" == stated


def test_there_are_21_networks_to_compare_with_and_the_catalog_has_all_published_ones() -> None:
    assert len(ENTRIES) == 21
    published = {
        training_form(entry)
        for entry in ENTRIES.values()
        if entry["published"] and entry["model"] == "condensenet" and entry["args"]["data"] != "cifar100"
    }
    assert len(published) == 9
    assert published <= set(VARIANTS.values())
    assert training_form(ENTRIES["cifar10_densenet_LGC_16-16-16_12-12-12"]) in VARIANTS.values()


def test_nothing_but_norms_and_convolutions_and_one_linear_layer_has_parameters() -> None:
    with shapes_only():
        net = VARIANTS["condensenet-cifar-86"].build()
    owners = {type(module) for module in net.modules() if list(module.parameters(recurse=False))}
    assert all(issubclass(owner, nn.BatchNorm2d | nn.Conv2d | nn.Linear) for owner in owners)
