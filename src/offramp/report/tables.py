"""The tables people see, as text cells; the command line and the page print the same ones."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offramp.decide.accuracy import ExitAccuracy
from offramp.decide.paper import SweepPoint
from offramp.report.evaluation import BudgetReport, DeadlineReport, Evaluation
from offramp_runtime.costs import Costs, format_cost


@dataclass(frozen=True)
class Table:
    """Named columns and rows of text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Raw values as comma-separated values with a header."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def exit_table(evaluation: Evaluation, costs: Costs) -> Table:
    """One row per exit."""
    exits = evaluation.exits
    shares = accuracy_table(exits.accuracy)
    rows = tuple(
        (exit_, costs.format(macs), f"{ms:.2f}", *cells)
        for (exit_, *cells), macs, ms in zip(shares.rows, exits.macs, exits.ms, strict=True)
    )
    return Table(("exit", "cost", "ms, 1 image", *shares.columns[1:]), rows)


def accuracy_table(accuracy: ExitAccuracy) -> Table:
    """One row per exit, without what it costs."""
    shares = zip(accuracy.top1, accuracy.top5, accuracy.ensemble_top1, accuracy.ensemble_top5, strict=True)
    rows = tuple((str(k), *(f"{100 * value:.2f}" for value in values)) for k, values in enumerate(shares))
    return Table(("exit", "top-1 %", "top-5 %", "ensemble top-1 %", "ensemble top-5 %"), rows)


def budget_table(budgets: Sequence[BudgetReport]) -> Table:
    """One row per budget."""
    rows = (
        (
            one.budget,
            f"{100 * one.outcome.accuracy:.2f}",
            format_cost(one.outcome.mean_cost, one.unit),
            f"{one.images_per_s:,.0f}",
            " / ".join(f"{100 * share:.0f}" for share in one.outcome.shares),
        )
        for one in budgets
    )
    return Table(("budget per image", "top-1 %", "mean cost", "images/s", "left at exit 0 / 1 / …, %"), tuple(rows))


def deadline_table(deadlines: Sequence[DeadlineReport]) -> Table:
    """One row per deadline."""
    rows = (
        (
            f"{one.deadline_ms:.2f} ms",
            f"{100 * one.accuracy:.2f}",
            "–" if one.mean_exit is None else f"{one.mean_exit:.2f}",
            "–" if one.p50_ms is None else f"{one.p50_ms:.2f}",
            f"{100 * one.in_time:.1f}",
        )
        for one in deadlines
    )
    return Table(("deadline", "top-1 %", "mean exit", "median ms", "in time %"), tuple(rows))


def sweep_table(points: Sequence[SweepPoint], costs: Costs) -> Table:
    """One row per point of the published sweep."""
    rows = (
        (
            f"{one.p / 20:.2f}",
            f"{100 * one.fitted.accuracy:.2f}",
            f"{100 * one.applied.accuracy:.2f}",
            costs.format(one.applied.mean_cost),
        )
        for one in points
    )
    return Table(("r", "calibrate top-1 %", "test top-1 %", "test mean cost"), tuple(rows))
