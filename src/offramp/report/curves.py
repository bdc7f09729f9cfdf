"""Accuracy over cost, drawn."""

import io
from collections.abc import Sequence

from offramp.decide.interpolation import envelope
from offramp.report.evaluation import BudgetReport, Evaluation
from offramp_runtime.budget import Outcome

LEAST_RANGE = 3.0
"""Points of accuracy the axis spans at least, so that a single image of a small test set does not look like a cliff."""
GREY, RED, TEAL = "#8a8f98", "#d1495b", "#00798c"


def curves_svg(evaluation: Evaluation, curve: Sequence[Outcome], budgets: Sequence[BudgetReport]) -> str:
    """An SVG element: accuracy over MACs (every exit, the budget curve, budgets really run) and over milliseconds.

    Args:
        evaluation: every exit.
        curve: outcomes of budgets in MACs; may be empty.
        budgets: budgets really run; those not in MACs are left out.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    accuracy = [100 * value for value in evaluation.exits.accuracy.top1]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    by_macs, by_time = figure.subplots(1, 2, sharey=True)
    mega = [value / 1e6 for value in evaluation.exits.macs]
    corners = envelope(mega, accuracy)
    by_macs.plot(mega, accuracy, "o", color=GREY, label="anytime: every image to the same exit")
    if len(corners) > 1:  # where exit 0 scores best, there is nothing to go on to
        by_macs.plot(
            [mega[k] for k in corners], [accuracy[k] for k in corners], "--", color=GREY,
            label="interpolated: each image to one of two exits at random",
        )  # fmt: skip
    if curve:
        by_macs.plot(*_points(curve), color=RED, linewidth=2, label="budgeted: each image as deep as it needs")
    run = [one.outcome for one in budgets if one.unit == "MAC"]
    if run:
        by_macs.plot(*_points(run), "D", color=TEAL, label="budgets really run")
    by_macs.set_xlabel("mean MMAC per image")
    by_macs.set_ylabel("top-1 accuracy, %")
    by_macs.legend(frameon=False, fontsize=9, loc="lower right")
    by_time.plot(evaluation.exits.ms, accuracy, "o-", color=TEAL)
    for k, (x, y) in enumerate(zip(evaluation.exits.ms, accuracy, strict=True)):
        by_time.annotate(f"exit {k}", (x, y), textcoords="offset points", xytext=(4, -12), fontsize=9)
    by_time.set_xlabel("measured ms for one image")
    scores = [*accuracy, *_points(curve)[1], *_points(run)[1]]
    by_macs.set_ylim(min(*scores, max(scores) - LEAST_RANGE) - 0.3, max(scores) + 0.3)
    for axes in (by_macs, by_time):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    out = io.StringIO()
    # Text as paths with fixed ids and no date: the same figures draw the same file.
    with rc_context({"svg.hashsalt": "offramp"}):
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawn = out.getvalue()
    return drawn[drawn.index("<svg") :]


def _points(outcomes: Sequence[Outcome]) -> tuple[list[float], list[float]]:
    """Mean MMAC and accuracy in percent."""
    return [one.mean_cost / 1e6 for one in outcomes], [100 * one.accuracy for one in outcomes]
