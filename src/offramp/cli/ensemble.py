"""``offramp ensemble``."""

from pathlib import Path
from typing import Annotated

import typer


def run(
    models: Annotated[
        list[str], typer.Argument(help="Two or more model folders, runs or shipped models.", metavar="MODEL…")
    ],
    out: Annotated[Path, typer.Option(help="Model folder to write.", metavar="DIR")],
) -> None:
    """Make one model of several: an exit for each, answering with the mean of the probabilities so far.

    The cheapest runs first. The result is a model as every other: it answers before deadlines and, once calibrated, within
    budgets.
    """
    from offramp.classifier.entry import ensemble, find
    from offramp.classifier.folder import check_free, read
    from offramp.cli.show import say

    check_free(out)
    made = ensemble(*(read(find(model), calibrated=False) for model in models))
    made.save(out)
    costs = ", ".join(made.costs.format(cost) for cost in made.costs.at_exit)
    say(f"wrote {out}: {made.net.num_exits} exits at {costs}")
    say(f"next: offramp calibrate {out} --data NAME")
