"""Evaluating and showing the result, shared by ``evaluate`` and ``demo``."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offramp.classifier import Classifier
from offramp.cli.show import counting, remark, say_json, say_table
from offramp.data.source import Samples, Source, SplitName
from offramp.decide.accuracy import ExitAccuracy
from offramp.decide.paper import SweepPoint, paper_sweep
from offramp.report.evaluation import (
    BudgetReport,
    DeadlineReport,
    Evaluation,
    as_json,
    budget_curve,
    check_ten_crops,
    evaluate,
    evaluate_ten_crops,
    run_budget,
    run_deadline,
    spread_budgets,
    sweep_values,
)
from offramp.report.page import write_page
from offramp.report.tables import Table, accuracy_table, budget_table, deadline_table, exit_table, sweep_table, to_csv
from offramp_runtime.files import write_text


@dataclass(frozen=True, eq=False)
class Report:
    """All that was found out about a classifier."""

    classifier: Classifier
    evaluation: Evaluation
    budgets: list[BudgetReport]
    deadlines: list[DeadlineReport]
    ten_crops: ExitAccuracy | None = None

    @classmethod
    def make(
        cls,
        classifier: Classifier,
        source: Source,
        budgets: list[str] | None,
        deadlines_ms: list[float],
        *,
        split: SplitName = "test",
        ten_crop: bool = False,
    ) -> "Report":
        """Evaluate on a split; :func:`check` tells beforehand what cannot be done.

        Args:
            classifier: what to evaluate.
            source: data of the model's classes.
            budgets: to run; None means three between the first and the last exit's cost.
            deadlines_ms: to run, one image a call.
            split: to evaluate on.
            ten_crop: whether to run ten crops of each image too.
        """
        test = source.split(split)
        with counting("evaluating", len(test)) as done:
            evaluation = evaluate(classifier, source, split, done)
        crops = None
        if ten_crop:
            with counting("ten crops", len(test)) as done:
                crops = evaluate_ten_crops(classifier, test, done)
        chosen: list[float] | list[str] = budgets or (
            spread_budgets(classifier.costs) if classifier.calibration else []
        )
        spent, kept = [], []
        for budget in chosen:
            with counting(f"budget {_named(classifier, budget)}", len(test)) as done:
                spent.append(run_budget(classifier, test, budget, done))
        for deadline in deadlines_ms:
            with counting(f"deadline {deadline:g} ms", len(test)) as done:
                kept.append(run_deadline(classifier, test, deadline, done))
        return cls(classifier, evaluation, spent, kept, crops)

    def paper_sweep(self) -> list[SweepPoint]:
        """The published sweep, thresholds fitted on the calibration and applied to the test scores."""
        calibration = self.classifier.calibration
        assert calibration is not None  # make() saw to it
        evaluation = self.evaluation
        return paper_sweep(
            (calibration.confidence, calibration.correct),
            (evaluation.confidence, evaluation.correct),
            self.classifier.costs,
        )


def check(
    classifier: Classifier, test: Samples, budgets: list[str], deadlines_ms: list[float], *, ten_crop: bool
) -> None:
    """Refuse what this machine cannot do now, before anything long starts.

    Raises:
        ConfigError: ten crops of images that cannot be cropped so.
        BudgetError: a budget that cannot be kept, or a deadline too short for exit 0.
    """
    if ten_crop:
        check_ten_crops(classifier, test)
    for budget in budgets:
        classifier.plan(budget, len(test))
    for deadline in deadlines_ms:
        classifier.predict(next(test.batches(1)), deadline_ms=deadline)


def show(report: Report, sweep: list[SweepPoint] | None, *, csv: Path | None, page: Path | None, as_json: bool) -> None:
    """Print the report, and write what was asked for."""
    tables = _tables(report, sweep)
    if as_json:
        say_json(_values(report, sweep))
    else:
        for title, table in tables:
            say_table(title, table)
        if report.classifier.calibration is None:
            remark("no budgets: this model has no calibration; make one with: offramp calibrate MODEL --data NAME")
    if csv is not None:
        write_text(csv, to_csv(sweep_values(sweep) if sweep is not None else _values(report, None)["exits"]))
        remark(f"wrote {csv}")
    if page is not None:
        write_report(report, page)
        remark(f"wrote {page}")


def _tables(report: Report, sweep: list[SweepPoint] | None) -> list[tuple[str, Table]]:
    evaluation, costs = report.evaluation, report.classifier.costs
    images = f"{evaluation.images:,} {evaluation.split} images of {evaluation.source}"
    title = f"Anytime: every exit on {images} ({report.classifier.running.described})"
    tables = [(title, exit_table(evaluation, costs))]
    if report.ten_crops:
        tables.append(("Ten crops of each image, logits averaged", accuracy_table(report.ten_crops)))
    if report.budgets:
        tables.append(("Budgeted: images leave as early as they can", budget_table(report.budgets)))
    if report.deadlines:
        tables.append(("Deadlines: one image a call", deadline_table(report.deadlines)))
    if sweep is not None:
        tables.append(("Published sweep: shares r^k, thresholds from the calibration", sweep_table(sweep, costs)))
    return tables


def _named(classifier: Classifier, budget: float | str) -> str:
    return budget if isinstance(budget, str) else classifier.costs.format(budget)


def write_report(report: Report, path: Path) -> None:
    """Write the HTML page."""
    from offramp.measure.machine import describe_machine

    classifier, evaluation = report.classifier, report.evaluation
    calibration = classifier.calibration
    machine = describe_machine(classifier.device)
    note = (
        f"{evaluation.images:,} {evaluation.split} images of {evaluation.source}, weights {classifier.identity[:12]}. "
        f"Measured on {machine['device']} ({classifier.running.described}), torch {machine['torch']}, offramp "
        f"{machine['offramp']} ({machine['commit']}). Thresholds come from held-out training images, never from test images."
    )
    curve = budget_curve(evaluation, calibration, classifier.costs) if calibration else []
    title = f"offramp on {evaluation.source}"
    write_page(path, title, note, evaluation, classifier.costs, curve, report.budgets, report.deadlines)


def _values(report: Report, sweep: list[SweepPoint] | None) -> dict[str, Any]:
    values = as_json(report.evaluation, report.budgets, report.deadlines)
    if report.ten_crops is not None:
        values["ten_crops"] = {"top1": list(report.ten_crops.top1), "top5": list(report.ten_crops.top5)}
    if sweep is not None:
        infinite = {math.inf: "inf", -math.inf: "-inf"}  # which JSON lacks
        values["sweep"] = [{k: infinite.get(v, v) for k, v in row.items()} for row in sweep_values(sweep)]
    return values
