"""What a classifier does on a split: per exit, under budgets, before deadlines. Everything is really run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offramp.classifier import Classifier
from offramp.classifier.checks import check_classes
from offramp.data.source import Samples, Source, SplitName
from offramp.data.streamed import StreamedSplit
from offramp.decide.accuracy import ExitAccuracy, exit_accuracy
from offramp.decide.answers import ThisExit
from offramp.decide.calibration import Calibration
from offramp.decide.paper import SweepPoint
from offramp.engine.collect import collect, scores
from offramp.errors import BudgetError, ConfigError
from offramp_runtime.budget import Flags, Outcome, Scores, simulate
from offramp_runtime.checks import check_deadline
from offramp_runtime.costs import Costs
from offramp_runtime.predictions import Predictions


@dataclass(frozen=True)
class ExitReport:
    """Anytime mode: every exit on all images."""

    macs: tuple[float, ...]
    """Up to each exit, (K,)."""
    ms: tuple[float, ...]
    """Measured for one image, up to each exit, (K,)."""
    accuracy: ExitAccuracy


@dataclass(frozen=True)
class BudgetReport:
    """One budget, really spent."""

    budget: str
    unit: str
    """Of the outcome's mean cost: MAC or ms."""
    outcome: Outcome
    images_per_s: float


@dataclass(frozen=True)
class DeadlineReport:
    """One deadline, each image a call of its own."""

    deadline_ms: float
    accuracy: float
    """Of all calls; a refused one is not right."""
    mean_exit: float | None
    """Of calls that were answered; None where all were refused."""
    in_time: float
    """Share of calls whose last answer came before the deadline."""
    p50_ms: float | None
    """Of calls that were answered; None where all were refused."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A classifier on one split of a data set."""

    source: str
    split: SplitName
    images: int
    exits: ExitReport
    confidence: Scores
    """(K, N)."""
    correct: Flags
    """(K, N)."""


def evaluate(
    classifier: Classifier, source: Source, split: SplitName = "test", report: Callable[[int], None] | None = None
) -> Evaluation:
    """Run the split once through all exits, and time the exits for one image.

    Raises:
        DataError: the source has other classes than the model.
    """
    check_classes(classifier.classes, source)
    data = source.split(split)
    logits: Tensor = classifier.collect(data, report)
    exits = ExitReport(
        classifier.costs.at_exit, classifier.measuring.times(1).costs.at_exit, exit_accuracy(logits, data.labels)
    )
    confidence, correct = scores(ThisExit(), logits, data.labels)
    return Evaluation(source.name, split, len(data), exits, confidence, correct)


def check_ten_crops(classifier: Classifier, samples: Samples) -> None:
    """Refuse ten crops where there is nothing to crop from.

    Raises:
        ConfigError: images are decoded at the size the model sees, or the model resizes to no more than that.
    """
    preprocessing = classifier.preprocessing
    if (
        not isinstance(samples, StreamedSplit)
        or preprocessing is None
        or preprocessing.resize <= preprocessing.image_size
    ):
        raise ConfigError(
            "ten crops are cut from images larger than the network sees; this model or data set has none "
            "(ImageNet models resize to 256 and see 224)"
        )


@torch.inference_mode()
def evaluate_ten_crops(
    classifier: Classifier, samples: Samples, report: Callable[[int], None] | None = None
) -> ExitAccuracy:
    """Accuracy of every exit when the logits of ten crops of each image are averaged.

    Raises:
        ConfigError: see :func:`check_ten_crops`.
    """
    check_ten_crops(classifier, samples)
    assert isinstance(samples, StreamedSplit)
    preprocessing, device = classifier.preprocessing, classifier.device
    assert preprocessing is not None
    parts: list[Tensor] = []
    done = 0
    for crops in samples.ten_crops(16):
        logits = collect(classifier.runtime, [crops.reshape(-1, *crops.shape[2:])], preprocessing, device=device)
        exits, _, classes = logits.shape
        parts.append(logits.reshape(exits, *crops.shape[:2], classes).mean(2))
        done += len(crops)
        if report is not None:
            report(done)
    return exit_accuracy(torch.cat(parts, dim=1), samples.labels)


def run_budget(
    classifier: Classifier, split: Samples, budget: float | str, report: Callable[[int], None] | None = None
) -> BudgetReport:
    """Classify the split under a budget and take the time, decoding excluded."""
    plan = classifier.plan(budget, len(split))
    parts, seconds, done = [], 0.0, 0
    for batch in split.batches(classifier.batch_size):
        began = time.perf_counter()
        parts.append(classifier.predict(batch, plan=plan))
        seconds += time.perf_counter() - began
        done += len(batch)
        if report is not None:
            report(done)
    found = Predictions.join(parts)
    shares = np.bincount(found.exit_index, minlength=classifier.net.num_exits) / len(split)
    spent = 1e3 * seconds / len(split) if plan.costs.unit == "ms" else float(shares @ np.asarray(plan.costs.at_exit))
    outcome = Outcome(float((found.label == split.labels).mean()), spent, tuple(shares.tolist()))
    return BudgetReport(plan.costs.format(plan.budget), plan.costs.unit, outcome, len(split) / seconds)


def run_deadline(
    classifier: Classifier, split: Samples, deadline_ms: float, report: Callable[[int], None] | None = None
) -> DeadlineReport:
    """Classify the split image by image, each before the deadline.

    Where the machine is too slow for exit 0 at the moment, there is no answer: that is neither right nor in time.

    Raises:
        BudgetError: a deadline that is no time at all.
    """
    check_deadline(deadline_ms)
    predictor = classifier.anytime()
    exits: list[int] = []
    took: list[float] = []
    right = 0
    for place, (image, label) in enumerate(zip(split.batches(1), split.labels, strict=True)):
        began = time.perf_counter()
        try:
            found = predictor.predict(image, deadline_ms)
        except BudgetError:
            pass
        else:
            took.append((time.perf_counter() - began) * 1e3)
            exits.append(int(found.exit_index[0]))
            right += int(found.label[0] == label)
        if report is not None:
            report(place + 1)
    kept, calls = sum(ms <= deadline_ms for ms in took), len(split)
    mean_exit, p50_ms = (fmean(exits), median(took)) if exits else (None, None)
    return DeadlineReport(deadline_ms, right / calls, mean_exit, kept / calls, p50_ms)


def budget_curve(evaluation: Evaluation, calibration: Calibration, costs: Costs, points: int = 40) -> list[Outcome]:
    """Accuracy over mean cost for budgets from the first to the last exit's cost, thresholds from the calibration."""
    budgets = np.geomspace(costs.at_exit[0], costs.at_exit[-1], points)
    budgets[0] = costs.at_exit[0]
    plans = (calibration.solve(float(budget), costs) for budget in budgets)
    return [simulate(evaluation.confidence, evaluation.correct, plan.policy.thresholds, costs) for plan in plans]


def spread_budgets(costs: Costs, shares: tuple[float, ...] = (0.25, 0.5, 0.75)) -> list[float]:
    """Budgets at given places between the first and the last exit's cost."""
    first, last = costs.at_exit[0], costs.at_exit[-1]
    return [first + share * (last - first) for share in shares]


def sweep_values(points: Sequence[SweepPoint]) -> list[dict[str, float | int]]:
    """The published sweep as plain rows; infinite thresholds stay infinite."""
    return [
        {
            "r": point.p / 20,
            "calibrate_top1": point.fitted.accuracy,
            "top1": point.applied.accuracy,
            "mean_macs": point.applied.mean_cost,
            **{f"threshold_{k}": threshold for k, threshold in enumerate(point.thresholds[:-1])},
        }
        for point in points
    ]


def as_json(evaluation: Evaluation, budgets: list[BudgetReport], deadlines: list[DeadlineReport]) -> dict[str, Any]:
    """Plain values for ``--json`` and stored results."""
    exits, accuracy = evaluation.exits, evaluation.exits.accuracy
    return {
        "source": evaluation.source,
        "split": evaluation.split,
        "images": evaluation.images,
        "exits": [
            {
                "exit": k, "macs": exits.macs[k], "ms": exits.ms[k],
                "top1": accuracy.top1[k], "top5": accuracy.top5[k],
                "ensemble_top1": accuracy.ensemble_top1[k], "ensemble_top5": accuracy.ensemble_top5[k],
            }
            for k in range(len(exits.macs))
        ],
        "budgets": [
            {"budget": b.budget, "accuracy": b.outcome.accuracy, "mean_cost": b.outcome.mean_cost,
             "unit": b.unit, "images_per_s": b.images_per_s, "shares": list(b.outcome.shares)}
            for b in budgets
        ],
        "deadlines": [vars(d) for d in deadlines],
    }  # fmt: skip
