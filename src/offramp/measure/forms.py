"""Which form of each learned convolution is the fastest here."""

import copy
import time
from collections.abc import Callable
from statistics import median
from typing import cast, get_args

import torch
from torch import Tensor

from offramp.nets.chain import ChainStage, Features, Ordinary
from offramp.nets.condensenet import CondenseNet, CondenseNetConfig, Form, convert
from offramp.nets.condensenet.buffered import BufferedBlock

REPEATS = 15
CLEARLY = 0.9
"""What is not faster than this share of the time of ``grouped``, which computes the least, is not taken instead of it."""
IN_TRANSITIONS: dict[Form, Form] = {"folded": "grouped", "ungrouped": "dense"}
"""What stands for a form where no 3x3 convolution follows."""


def forms_of(config: CondenseNetConfig, form: Form) -> tuple[Form, ...]:
    """The same one everywhere, as far as there is a place for it; (learned convolutions,)."""
    places, transitions = range(config.num_learned), config.transition_places
    return tuple(IN_TRANSITIONS.get(form, form) if place in transitions else form for place in places)


@torch.inference_mode()
def fastest_forms(net: CondenseNet, clock: Callable[[], float] = time.perf_counter) -> tuple[Form, ...]:
    """The forms of the learned convolutions in which one image, run eagerly on the CPU, takes the least time.

    Tried are each form everywhere, and of each layer the one in which it was the fastest there. All but ``grouped`` compute
    more than training has left, so that they must be clearly faster.

    Args:
        net: trained.
        clock: seconds, for tests.

    Raises:
        ConfigError: the network has no learned convolutions, or they have not dropped their last portion.
    """
    net = copy.deepcopy(net).cpu()
    uniform = [forms_of(net.config, form) for form in cast(tuple[Form, ...], get_args(Form))]
    side = net.config.image_size
    image = torch.zeros(1, net.config.image_channels, side, side)
    times = _times(net, uniform, image, clock)
    mixed = tuple(
        min(zip(uniform, times, strict=True), key=lambda pair: pair[1][place])[0][place]
        for place in range(net.config.num_learned)
    )
    # A layer of another form than its neighbours may cost them time, so that all alike can still be faster.
    alike = min(zip(uniform, times, strict=True), key=lambda pair: sum(pair[1]))[0]
    least = forms_of(net.config, "grouped")
    contenders = list(dict.fromkeys((mixed, alike, least)))
    whole = dict(zip(contenders, map(sum, _times(net, contenders, image, clock)), strict=True))
    fastest = min(contenders, key=lambda forms: whole[forms])
    return fastest if whole[fastest] < CLEARLY * whole[least] else least


def _times(
    net: CondenseNet, candidates: list[tuple[Form, ...]], image: Tensor, clock: Callable[[], float]
) -> list[list[float]]:
    """Median seconds of each part with a learned convolution, then those of all others together, per candidate."""
    made = [_ready(convert(net, forms)) for forms in candidates]
    laps: list[list[list[float]]] = [[] for _ in candidates]
    for _ in range(3 + REPEATS):  # a slow moment meets all forms alike
        for one, stage in zip(laps, made, strict=True):
            one.append(_lap(stage, image, clock))
    return [[median(part[3:]) for part in zip(*one, strict=True)] for one in laps]


def _ready(net: CondenseNet) -> ChainStage:
    """As runtime ``eager`` runs it."""
    fused = net.fused(eager=True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return cast(ChainStage, fused.stages[0])


def _lap(stage: ChainStage, image: Tensor, clock: Callable[[], float]) -> list[float]:
    """Seconds of each part with a learned convolution, in the order of the network, then those of all others."""
    features: Features = (image.contiguous(memory_format=torch.channels_last),)  # as images are decoded
    learned, others = [], 0.0
    for part in stage.parts:
        began = clock()
        if isinstance(part, BufferedBlock):
            features, each = part.timed(features, clock)
            learned += each
            others += clock() - began - sum(each)
            continue
        features = part(features)
        took = clock() - began
        if isinstance(part, Ordinary):
            others += took
        else:
            learned.append(took)
    return [*learned, others]
