"""Which form of each learned convolution is the fastest here."""

import copy
import time
from collections.abc import Callable
from statistics import median
from typing import cast, get_args

import torch
from torch import Tensor

from offramp.nets.chain import ChainStage, Features
from offramp.nets.condensenet import CondenseNet, CondenseNetConfig, Form, convert
from offramp.nets.dense_layers import DenseLayer, Transition

REPEATS = 15
IN_TRANSITIONS: dict[Form, Form] = {"folded": "grouped", "ungrouped": "dense"}
"""What stands for a form where no 3x3 convolution follows."""


def forms_of(config: CondenseNetConfig, form: Form) -> tuple[Form, ...]:
    """The same one everywhere, as far as there is a place for it; (learned convolutions,)."""
    places, transitions = range(config.num_learned), config.transition_places
    return tuple(IN_TRANSITIONS.get(form, form) if place in transitions else form for place in places)


@torch.inference_mode()
def fastest_forms(net: CondenseNet, clock: Callable[[], float] = time.perf_counter) -> tuple[Form, ...]:
    """The form of each learned convolution in which its layer takes the least time for one image, run eagerly on the CPU.

    Args:
        net: trained.
        clock: seconds, for tests.

    Raises:
        ConfigError: the network has no learned convolutions, or they have not dropped their last portion.
    """
    net = copy.deepcopy(net).cpu()
    candidates = [forms_of(net.config, form) for form in cast(tuple[Form, ...], get_args(Form))]
    made = [_ready(convert(net, forms)) for forms in candidates]
    side = net.config.image_size
    image = torch.zeros(1, net.config.image_channels, side, side)
    laps: list[list[list[float]]] = [[] for _ in candidates]
    for _ in range(3 + REPEATS):  # a slow moment meets all forms alike
        for one, stage in zip(laps, made, strict=True):
            one.append(_lap(stage, image, clock))
    times = [[median(part[3:]) for part in zip(*one, strict=True)] for one in laps]
    parts = net.chain[0].parts
    learned = [place for place, part in enumerate(parts) if isinstance(part, DenseLayer | Transition)]
    return tuple(
        min(zip(candidates, times, strict=True), key=lambda pair: pair[1][place])[0][number]
        for number, place in enumerate(learned)
    )


def _ready(net: CondenseNet) -> ChainStage:
    """As runtime ``eager`` runs it."""
    fused = net.fused().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return cast(ChainStage, fused.stages[0])


def _lap(stage: ChainStage, image: Tensor, clock: Callable[[], float]) -> list[float]:
    """Seconds of each part."""
    features: Features = (image.contiguous(memory_format=torch.channels_last),)
    seconds = []
    for part in stage.parts:
        began = clock()
        features = part(features)
        seconds.append(clock() - began)
    return seconds
