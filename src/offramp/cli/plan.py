"""``offramp plan``."""

from pathlib import Path
from typing import Annotated

import typer

from offramp.cli.options import Json, Model


def run(
    model: Model,
    budget: Annotated[str, typer.Option(help="Mean cost per image, such as 30MMAC or 2ms.")],
    out: Annotated[Path, typer.Option(help="File to write.", metavar="FILE")],
    json: Json = False,
) -> None:
    """Solve the exit thresholds for a budget and keep them in a file for `predict --plan`.

    `predict --budget` solves the same thresholds on the fly; a plan fixes them, and says what they should score.
    """
    from offramp.classifier import load
    from offramp.cli.show import say, say_json

    solved = load(model).plan(budget)
    solved.save(out)
    expected = solved.expected
    if json:
        say_json(
            {
                "plan": str(out),
                "accuracy": expected.accuracy,
                "mean_cost": expected.mean_cost,
                "shares": expected.shares,
            }
        )
        return
    shares = " / ".join(f"{100 * share:.0f}" for share in expected.shares)
    say(
        f"wrote {out}: on the calibrate split {100 * expected.accuracy:.2f} % right at "
        f"{solved.costs.format(expected.mean_cost)} per image; leaving at exit 0 / 1 / …: {shares} %"
    )
