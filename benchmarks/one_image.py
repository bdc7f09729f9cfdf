"""Batch 1, one thread: our runtimes beside public code, whole graphs and other networks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import figures
import native
import offramp
from figures import Figure, Promise
from graphs import ENGINES, open_file, open_graph
from limits import Limits, lacks
from offramp.engine.graphs import alignment
from offramp.measure.macs import direct_macs, staged_macs
from offramp.nets.bounds import with_bounds
from offramp.nets.msdnet import MSDNetConfig
from offramp_runtime.precision import check_precision
from phases import Measured, Network, Phase, Subject, Times, count, public_code, ratios, staging, subject_table, timed
from runtimes import Opened, config_of, random_images, random_net

WAKING = 5
STAGED, FIRST, DIRECT, PIECE = "staged, last exit", "exit 0", "direct to the last exit", "staged network in one piece"
REFERENCE, REFERENCE_FIRST = "public code, all exits", "public code, exit 0"
COMPARED = (
    (figures.STAGED, STAGED, REFERENCE),
    (figures.FIRST, FIRST, REFERENCE_FIRST),
    (figures.DIRECT, DIRECT, REFERENCE),
)


class Part(nn.Module):
    """A piece of a network that can be exported.

    Args:
        net: holds the weights.
        run: what of it, for the network and images (N, C, H, W).
    """

    def __init__(self, net: nn.Module, run: Callable[[Any, Tensor], object]) -> None:
        super().__init__()
        self.net, self.call = net, run

    def forward(self, images: Tensor) -> object:
        """What ``run`` gives."""
        return self.call(self.net, images)


def one_image(network: Network, opened: Opened, limits: Limits) -> list[Phase]:
    """All that is compared at batch 1, by precision: units of the processor for low precision slow down what comes next."""
    config = config_of(network.variant)
    image = random_images(config, 1)
    base = list(references(config, image))
    rivals = [*ours(config, opened, image), *others(image, network.peers)]
    return [
        _phase(network, opened, limits, precision, image, base + [one for one in rivals if one.precision == precision])
        for precision in figures.PRECISIONS
    ]


def _phase(
    network: Network, opened: Opened, limits: Limits, precision: str, image: Tensor, subjects: Sequence[Subject]
) -> Phase:
    times = timed(subjects, network.rounds, waking=WAKING)
    found = [
        faster(promises[network.name], precision, (what, base), subjects, times, opened.reason(precision), image)
        for promises, what, base in COMPARED
        if network.name in promises and precision in promises[network.name].must
    ]
    found += over_one_piece(network.name, subjects, times, image)
    title = (
        f"{network.name}, batch 1, {precision}, one thread, n = {network.rounds}, each after {WAKING} runs of its own"
    )
    return Phase(title, found, subject_table(subjects, times, limits), times)


def references(config: MSDNetConfig, image: Tensor) -> Iterator[Subject]:
    """Public code in eager PyTorch, and what static engines make of it as one graph."""
    net = public_code(config)
    for what, k in ((REFERENCE, config.exits - 1), (REFERENCE_FIRST, 0)):
        part = Part(net, _up_to(k))
        macs = count(part, image)
        yield Subject(what, "PyTorch", "fp32", partial(part, image), macs)
        for engine in ENGINES:
            yield Subject(f"{what}, one graph", engine, "fp32", open_graph(engine, part, image), macs)


def ours(config: MSDNetConfig, opened: Opened, image: Tensor) -> Iterator[Subject]:
    """Every runtime, and the network it runs in one piece."""
    net = random_net(config)
    fused, last = net.fused(align=alignment("fp32"), merge=False), config.exits - 1  # as the graphs of the runtimes are
    staged, alone = staged_macs(net).at_exit, direct_macs(net).at_exit
    way, first = Part(fused, _direct(last)), Part(fused, _direct(0))
    for (name, precision), runtime in opened.runtimes.items():
        graph = opened.graph(precision)
        yield Subject(STAGED, name, precision, staging(runtime, image, last), staged[-1], fused, graph)
        yield Subject(FIRST, name, precision, staging(runtime, image, 0), staged[0], first)
        yield Subject(DIRECT, name, precision, partial(runtime.direct, last, image), alone[-1], way)
    for engine, precision in graph_precisions():
        yield Subject(PIECE, engine, precision, open_graph(engine, fused, image, precision), staged[-1])
    for name, precision in opened.runtimes:
        if name == "native":
            piece = native.open_piece(opened.graph(precision) or net, image, check_precision(precision))
            yield Subject(PIECE, name, precision, piece, staged[-1])
    if quantised := opened.graph("int8"):
        for engine in ENGINES:
            yield Subject(PIECE, engine, "int8", open_file(engine, quantised, image), staged[-1])


def others(image: Tensor, names: Iterable[str]) -> Iterator[Subject]:
    """Other networks, in both engines, of which the better one counts."""
    for name in names:
        torch.manual_seed(0)
        net = Part(with_bounds(offramp.create(name).eval().fused()), _direct(0))
        macs = count(net, image)
        for engine, precision in graph_precisions():
            yield Subject(name, engine, precision, open_graph(engine, net, image, precision), macs)


def graph_precisions() -> list[tuple[str, str]]:
    """In what whole graphs can be timed here."""
    return [(engine, "fp32") for engine in ENGINES] + ([] if lacks("bf16") else [("openvino", "bf16")])


def faster(
    promise: Promise,
    precision: str,
    work: tuple[str, str],
    subjects: Sequence[Subject],
    times: Times,
    reason: str,
    image: Tensor,
) -> Measured:
    """How much faster the best runtime does ``work[0]`` than public code does ``work[1]``."""
    what, base = work
    reference = next(times[one.name] for one in subjects if one.what == base)
    graphs = {one.engine: times[one.name] for one in subjects if one.what == f"{base}, one graph"}
    beside = {engine: median(ratios(reference, own)) for engine, own in graphs.items()}
    rivals = [one for one in subjects if (one.what, one.precision) == (what, precision)]
    if not rivals:
        return Measured(Figure(promise, "", precision, "", [], [], reason, beside))
    best = min(rivals, key=lambda one: median(times[one.name]))
    own = times[best.name]
    return Measured(Figure(promise, "", precision, best.engine, own, ratios(reference, own), "", beside), best, image)


def over_one_piece(where: str, subjects: Sequence[Subject], times: Times, image: Tensor) -> list[Measured]:
    """What the borders between stages cost, in every engine that could run the network in one piece."""
    pieces = {(one.engine, one.precision): times[one.name] for one in subjects if one.what == PIECE}
    found = []
    for one in subjects:
        piece = pieces.get((one.engine, one.precision))
        if one.what == STAGED and piece is not None:
            more = [100 * (ratio - 1) for ratio in ratios(times[one.name], piece)]
            figure = Figure(figures.STAGING, where, one.precision, one.engine, times[one.name], more)
            found.append(Measured(figure, one, image))
    return found


def _up_to(k: int) -> Callable[[Any, Tensor], object]:
    return lambda net, images: net.up_to(k, images)


def _direct(k: int) -> Callable[[Any, Tensor], object]:
    return lambda net, images: net.direct(k, images)
