"""Which parameters learn, and how fast: exits and backbone."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from offramp.errors import ConfigError
from offramp.nets.base import MultiExitNet
from offramp.nets.layers import answer_layers
from offramp.train.recipe import Recipe


def frozen_modules(net: MultiExitNet, freeze: str) -> list[nn.Module]:
    """The modules that keep their weights and norm statistics under ``freeze`` (see :class:`Recipe`)."""
    if freeze == "none":
        return []
    if freeze == "backbone":
        for stage in net.stages:
            _exit(stage)
    kept = net.num_exits if freeze == "backbone" else int(freeze.partition(":")[2])
    if kept > net.num_exits:
        raise ConfigError(f"freeze={freeze}: this network has {net.num_exits} stages")
    return [part for stage in net.stages[:kept] for name, part in stage.named_children() if name != "exit"]


def parameter_groups(net: MultiExitNet, recipe: Recipe) -> list[dict[str, Any]]:
    """Groups for the optimiser, each with its ``scale`` of the learning rate; frozen parameters are switched off.

    Without freezing and with equal rates that is one group, as ever.
    """
    for module in frozen_modules(net, recipe.freeze):
        module.requires_grad_(False)
    learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if recipe.backbone_rate == 1:
        return [{"params": learning, "scale": 1.0}]
    heads = {id(parameter) for stage in net.stages for parameter in _exit(stage).parameters()}
    exits = [parameter for parameter in learning if id(parameter) in heads]
    backbone = [parameter for parameter in learning if id(parameter) not in heads]
    groups = [{"params": exits, "scale": 1.0}, {"params": backbone, "scale": recipe.backbone_rate}]
    return [group for group in groups if group["params"]]


def train_mode(net: MultiExitNet, frozen: list[nn.Module]) -> None:
    """Training mode for all that learns; frozen norms go on using the statistics they have."""
    net.train()
    for module in frozen:
        module.eval()


def fresh_exits(net: MultiExitNet, initial: MultiExitNet, keep_answers: bool) -> list[str]:
    """Fill ``net`` with the weights of ``initial``, but for the exits' last layers where the classes differ.

    Args:
        net: freshly built; classes and image size may differ.
        initial: where the weights come from.
        keep_answers: whether the classes are the same, so that the last layers are worth keeping.

    Returns:
        Names of the tensors that start anew.

    Raises:
        ConfigError: the networks are not of one shape.
    """
    answers = set() if keep_answers else set(_answers(net))
    own, given = net.state_dict(), initial.state_dict()
    learnt = {name for name, _ in net.named_parameters()}  # which inputs a condensed classifier reads is not
    anew = sorted(name for name in learnt if name.rpartition(".")[0] in answers)
    wrong = [name for name in own if name not in anew and (name not in given or own[name].shape != given[name].shape)]
    if wrong or own.keys() != given.keys():
        raise ConfigError(
            f"the initial model has another architecture ({wrong[0] if wrong else 'other layers'}); "
            "train a network of its own variant"
        )
    net.load_state_dict({name: own[name] if name in anew else given[name] for name in own})
    return anew


def _answers(net: MultiExitNet) -> Iterator[str]:
    """Names of the linear layers that know the classes, of each exit."""
    for k, stage in enumerate(net.stages):
        # The last exit of a classifier that others were attached to lies within it.
        within = f"stages.{k}.exit" if _holds(stage) else f"stages.{k}"
        found = answer_layers(net.get_submodule(within), net.config.num_classes)
        if not found:
            raise ConfigError(f"exit {k} has no linear layer that could start anew; take the same classes")
        yield from (f"{within}.{name}".rstrip(".") for name, _ in found)


def _holds(stage: nn.Module) -> bool:
    """Whether the exit has weights."""
    return next(_exit(stage).parameters(), None) is not None


def _exit(stage: nn.Module) -> nn.Module:
    part = getattr(stage, "exit", None)
    if not isinstance(part, nn.Module):
        raise ConfigError("the exits of an ensemble are whole networks; fine-tune its members, then make it anew")
    return part


@torch.no_grad()
def finite(net: nn.Module) -> bool:
    """Whether all weights and statistics are numbers."""
    sums = [tensor.sum() for tensor in net.state_dict().values() if tensor.is_floating_point()]
    return bool(torch.stack(sums).isfinite().all())
