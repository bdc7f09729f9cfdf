"""Do budgets save time? The shipped CIFAR-10 model on test images: time share against MAC share at three budgets."""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

import offramp
from common import header, interleaved, keep, markdown, spread
from offramp.catalog import lookup
from offramp.report.evaluation import spread_budgets
from offramp.report.tables import Table
from offramp_runtime.plan import ExitPlan

ROUNDS = 7
IMAGES = 2048


def main() -> None:
    """Print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True, help="folder above cifar10/")
    test = lookup("data set", "cifar10", "data", "SOURCES").open(parser.parse_args().data_root).split("test")
    images, labels = test.images[:IMAGES], test.labels[:IMAGES]
    model = offramp.load("cifar10")
    assert model.calibration is not None  # the shipped model is calibrated
    costs = model.costs
    plans = [model.plan(budget) for budget in spread_budgets(costs)]
    whole = model.plan(costs.at_exit[-1])

    def solve(budget: float) -> Callable[[], object]:
        return lambda: model.plan(budget)

    def spend(plan: ExitPlan) -> Callable[[], object]:
        return lambda: model.predict(images, plan=plan)

    times = interleaved({str(n): spend(plan) for n, plan in enumerate([*plans, whole])}, ROUNDS, warmup=1)
    solving = interleaved({str(n): solve(plan.budget) for n, plan in enumerate(plans)}, ROUNDS)
    solved = spread([one for several in solving.values() for one in several])
    full = median(times["3"])
    rows = []
    for n, plan in enumerate([*plans, whole]):
        found = model.predict(images, plan=plan)
        shares = np.bincount(found.exit_index, minlength=len(costs.at_exit)) / IMAGES
        mean = float(shares @ np.asarray(costs.at_exit))
        mac_share, time_share = mean / costs.at_exit[-1], median(times[str(n)]) / full
        rows.append(
            (
                costs.format(plan.budget),
                f"{100 * (found.label == labels).mean():.2f}",
                costs.format(mean),
                " / ".join(f"{100 * share:.0f}" for share in shares),
                spread(times[str(n)]),
                f"{IMAGES / median(times[str(n)]) * 1e3:,.0f}",
                f"{mac_share:.3f}",
                f"{time_share:.3f}",
                f"{time_share / mac_share:.2f}",
            )
        )
    columns = (
        "budget",
        "top-1 %",
        "mean cost",
        "left at exit, %",
        "ms",
        "images/s",
        "MAC share",
        "time share",
        "ratio",
    )
    title = f"Budgets on {IMAGES:,} CIFAR-10 test images, batches of {model.batch_size}"
    footer = f"\nSolving one budget from the calibration of {len(model.calibration.indices):,} images: {solved} ms.\n"
    text = header(title, ROUNDS) + "\n" + markdown(Table(columns, tuple(rows))) + footer
    keep("budgets", text, times | {"solving": solving})


if __name__ == "__main__":
    main()
