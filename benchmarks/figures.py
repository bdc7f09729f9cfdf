"""The figures that are promised, and how measured ones compare with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

import numpy as np

from common import spread
from graphs import ENGINES
from offramp.report.tables import Table

PRECISIONS = ("fp32", "bf16", "int8")


@dataclass(frozen=True)
class Promise:
    """One row: what is compared, and by precision what it must reach and what would be fine."""

    title: str
    must: Mapping[str, float]
    goal: Mapping[str, float]
    kind: Literal["times", "percent", "ratio"] = "times"
    """``times`` faster, the more the better; ``percent`` on top or a ``ratio``, the less the better."""

    def format(self, value: float) -> str:
        """With its unit."""
        return {"times": f"{value:.2f}×", "percent": f"{value:+.1f} %", "ratio": f"{value:.3f}"}[self.kind]

    def holds(self, value: float, bound: float) -> bool:
        """Whether ``value`` is at least as good."""
        return value >= bound if self.kind == "times" else value <= bound


STAGED = {
    "CIFAR": Promise(
        "CIFAR 10 exits, staged, last exit",
        {"fp32": 3.0, "bf16": 4.0, "int8": 5.5},
        {"fp32": 4.5, "bf16": 8, "int8": 9},
    ),
    "ImageNet": Promise(
        "ImageNet step 4, staged, last exit",
        {"fp32": 2.7, "bf16": 5.3, "int8": 8.5},
        {"fp32": 3.3, "bf16": 6.5, "int8": 12},
    ),
}
FIRST = {"CIFAR": Promise("CIFAR, exit 0", {"fp32": 7, "bf16": 12}, {"fp32": 12, "bf16": 20})}
DIRECT = {"CIFAR": Promise("CIFAR, direct to the last exit", {"fp32": 4.8, "bf16": 6.0}, {"fp32": 7, "bf16": 14})}
STAGING = Promise(
    "staging over one piece, same runtime", dict.fromkeys(PRECISIONS, 12), dict.fromkeys(PRECISIONS, 3), "percent"
)
TWO_THREADS = {
    "CIFAR": Promise("CIFAR, two threads over one", {"fp32": 1.5}, {"fp32": 1.9}),
    "ImageNet": Promise("ImageNet, two threads over one", {"fp32": 1.8}, {"fp32": 1.95}),
}
LEAVING = Promise(
    "time share over MAC share", dict.fromkeys(PRECISIONS, 1.08), dict.fromkeys(PRECISIONS, 1.03), kind="ratio"
)
BUDGETED = Promise("leaving early over the reference run whole", {"fp32": 3, "bf16": 5}, {})


@dataclass(frozen=True)
class Figure:
    """One promise in one precision, and what came of it."""

    promise: Promise
    where: str
    """What the title leaves open, such as the network or batch."""
    precision: str
    runtime: str
    """That was measured: the best one where several could be."""
    ms: list[float]
    values: list[float]
    """One per round; empty where nothing could be measured."""
    reason: str = ""
    """Why nothing could be measured."""
    beside: Mapping[str, float] = field(default_factory=dict)
    """What whole graphs of public code reach in other engines, in float32."""

    @property
    def value(self) -> float:
        """Median over rounds."""
        return median(self.values)

    @property
    def missed(self) -> bool:
        """Whether what must be reached was measured and is not reached."""
        return bool(self.values) and not self.promise.holds(self.value, self.promise.must[self.precision])

    @property
    def verdict(self) -> str:
        """Of the last column."""
        if not self.values:
            return "not measured"
        goal = self.promise.goal.get(self.precision)
        if goal is not None and self.promise.holds(self.value, goal):
            return "goal met"
        return "MISSED" if self.missed else "met"

    @property
    def title(self) -> str:
        """With all that tells it from others."""
        return f"{self.promise.title}{', ' if self.where else ''}{self.where}"

    def cells(self) -> tuple[str, ...]:
        """One row of the table."""
        promise = self.promise
        goal = promise.goal.get(self.precision)
        bounds = promise.format(promise.must[self.precision]), "" if goal is None else promise.format(goal)
        beside = tuple(promise.format(self.beside[engine]) if engine in self.beside else "" for engine in ENGINES)
        if not self.values:
            return self.title, self.precision, "", "", "", *bounds, self.verdict, *beside
        low, high = np.quantile(self.values, (0.1, 0.9))
        measured = f"{promise.format(self.value)} [{promise.format(low)} … {promise.format(high)}]"
        return self.title, self.precision, self.runtime, spread(self.ms), measured, *bounds, self.verdict, *beside


def figure_table(figures: Sequence[Figure]) -> Table:
    """All of them."""
    beside = tuple(f"public code as one graph, {engine} fp32" for engine in ENGINES)
    columns = ("figure", "precision", "runtime", "ms", "measured", "must", "goal", "verdict", *beside)
    return Table(columns, tuple(one.cells() for one in figures))


def reasons(figures: Sequence[Figure]) -> str:
    """Why some could not be measured, a line per precision and reason."""
    found = dict.fromkeys((one.precision, one.reason) for one in figures if not one.values)
    return "".join(f"\nNot measured, {precision}: {reason}.\n" for precision, reason in found)
