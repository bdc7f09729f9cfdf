"""What measurements of speed share: what is timed, how, and how it is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from common import interleaved, markdown, spread
from figures import Figure
from graphs import Run
from limits import Limits
from offramp.measure.macs import count_macs
from offramp.nets.msdnet import MSDNetConfig
from offramp.report.tables import Table
from offramp.runtimes import DirectRuntime
from reference_msdnet import Reference
from runtimes import run_staged, shake_norms

Times = Mapping[str, list[float]]
"""Milliseconds of each round by the subject's name."""


@dataclass(frozen=True)
class Network:
    """What is run of one network."""

    name: str
    variant: str
    peers: tuple[str, ...]
    rounds: int
    """At batch 1."""
    batches: Mapping[int, int]
    """Rounds by batch size."""

    def at_most(self, rounds: int) -> "Network":
        """The same with fewer rounds."""
        fewer = {size: min(rounds, usual) for size, usual in self.batches.items()}
        return replace(self, rounds=min(rounds, self.rounds), batches=fewer)


@dataclass(frozen=True)
class Subject:
    """One thing to time."""

    what: str
    """Equal for all that do the same work."""
    engine: str
    precision: str
    run: Run
    macs: float
    """Of one call."""
    part: nn.Module | None = None
    """The network that runs, for profiles; None where nobody asks."""
    graph: Path | None = None
    """Its graph, where that cannot be made from the network."""

    @property
    def name(self) -> str:
        """Unlike any other's."""
        return f"{self.what} | {self.engine} {self.precision}"


@dataclass(frozen=True)
class Measured:
    """A figure, and what it is about where that can be profiled."""

    figure: Figure
    subject: Subject | None = None
    images: Tensor | None = None


@dataclass
class Phase:
    """What one measurement gives."""

    title: str
    figures: list[Measured]
    table: Table
    times: Times = field(default_factory=dict)

    @property
    def section(self) -> str:
        """Of the page."""
        return f"## {self.title}\n\n{markdown(self.table)}"


@torch.inference_mode()
def timed(subjects: Sequence[Subject], rounds: int, warmup: int = 3, waking: int = 0) -> Times:
    """All of them in turn, one thread."""
    return interleaved({one.name: one.run for one in subjects}, rounds, warmup, waking)


def subject_table(subjects: Sequence[Subject], times: Times, limits: Limits) -> Table:
    """All that was timed; the first is what others are compared with."""
    reference = times[subjects[0].name]
    rows = []
    for one in subjects:
        own = times[one.name]
        rate = 2 * one.macs / median(own) / 1e6
        speed = f"{median(ratios(reference, own)):.2f}×", f"{one.macs / 1e6:,.1f}", f"{rate:.1f}"
        rows.append((one.what, one.engine, one.precision, spread(own), *speed, f"{100 * rate / limits.gflops:.0f}"))
    columns = ("what", "engine", "precision", "ms", "× the first", "MMAC", "GFLOP/s", "% of the fp32 peak")
    return Table(columns, tuple(rows))


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Of each round."""
    return [one / other for one, other in zip(over, under, strict=True)]


def public_code(config: MSDNetConfig) -> Reference:
    """The reference with random weights."""
    torch.manual_seed(0)
    net = Reference(config)
    shake_norms(net, config)
    return net


def staging(runtime: DirectRuntime[Any], images: Tensor, k: int) -> Run:
    """Exits 0 … k, one stage after the other."""
    return lambda: run_staged(runtime, images, k)


@torch.inference_mode()
def count(net: nn.Module, images: Tensor) -> float:
    """Multiply-accumulates of one call."""
    with count_macs(net) as found:
        net(images)
    return found.macs
