"""What the shipped CIFAR-10 model does on the test images: every exit, budgets really spent, the published sweep, a figure."""

import argparse
from pathlib import Path

import numpy as np

import offramp
from common import RESULTS, keep, markdown
from offramp.catalog import lookup
from offramp.decide.paper import paper_sweep
from offramp.measure.machine import describe_machine
from offramp.report.curves import curves_svg
from offramp.report.evaluation import (
    as_json,
    budget_curve,
    evaluate,
    run_budget,
    run_deadline,
    spread_budgets,
    sweep_values,
)
from offramp.report.tables import budget_table, deadline_table, exit_table, sweep_table, to_csv

FIGURE = Path(__file__).parent.parent / "docs" / "images" / "cifar10.svg"


def main() -> None:
    """Print and keep the tables, write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True, help="folder above cifar10/")
    source = lookup("data set", "cifar10", "data", "SOURCES").open(parser.parse_args().data_root)
    model = offramp.load("cifar10")
    calibration, costs, test = model.calibration, model.costs, source.split("test")
    assert calibration is not None  # the shipped model is calibrated
    found = evaluate(model, source)
    budgets = [run_budget(model, test, budget) for budget in spread_budgets(costs, (0.1, 0.25, 0.5, 0.75, 1.0))]
    steps = model.measuring.times(1).costs.at_exit
    some = test.take(np.arange(1000))
    deadlines = [run_deadline(model, some, round(1.5 * ms + 0.5, 1)) for ms in (steps[0], steps[2], steps[4])]
    if any(one.mean_exit is None for one in deadlines):
        raise SystemExit("this machine is too busy for a deadline that it has just kept; try again")
    sweep = paper_sweep((calibration.confidence, calibration.correct), (found.confidence, found.correct), costs)
    curve = budget_curve(found, calibration, costs)
    # Before files of the repository change.
    facts = ", ".join(f"{name} {value}" for name, value in describe_machine(model.device).items())
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    FIGURE.write_text('<?xml version="1.0" encoding="utf-8"?>\n' + curves_svg(found, curve, budgets))
    parts = [
        "# The shipped CIFAR-10 model on the 10,000 test images\n",
        f"{facts}; {model.running.described}; weights {model.identity[:12]}, one training run (n = 1).",
        "20 of the test images are approximate copies",
        "(JPEG instead of the original pixels), which cannot move an accuracy by more than 0.2 points.\n",
        "## Every exit\n", markdown(exit_table(found, costs)),
        "## Budgets, really spent\n", markdown(budget_table(budgets)),
        "## Deadlines, one image a call, the first 1,000 images\n", markdown(deadline_table(deadlines)),
        "## The published sweep, on stored scores\n", markdown(sweep_table(sweep, costs)),
    ]  # fmt: skip
    values = as_json(found, budgets, deadlines)
    values["budget_curve"] = [{"mean_macs": one.mean_cost, "top1": one.accuracy} for one in curve]
    keep("cifar10", "\n".join(parts), values)
    (RESULTS / "cifar10_sweep.csv").write_text(to_csv(sweep_values(sweep)))


if __name__ == "__main__":
    main()
