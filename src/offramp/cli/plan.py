"""``offramp plan``."""

from pathlib import Path
from typing import Annotated

import typer

from offramp.cli.options import Json, Model, PrecisionName, RuntimeName, Threads


def run(
    model: Model,
    budget: Annotated[str, typer.Option(help="Mean cost per image, such as 30MMAC or 2ms.")],
    out: Annotated[Path, typer.Option(help="File to write; one that is there is not replaced.", metavar="FILE")],
    batch: Annotated[
        int | None,
        typer.Option(
            help="Images given at once, which matters for ms and J; by default a full batch of 256.", min=1, metavar="N"
        ),
    ] = None,
    runtime: RuntimeName = "auto",
    precision: PrecisionName = "fp32",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Solve the exit thresholds for a budget and keep them in a file for `predict --plan`.

    `predict --budget` solves the same thresholds on the fly; a plan fixes them, and says what they should score.
    """
    from offramp.cli.opening import check_new
    from offramp.cli.running import open_model
    from offramp.cli.show import say, say_json, waiting

    check_new(out)
    classifier = open_model(model, runtime=runtime, precision=precision, threads=threads, calibrated=True)
    with waiting("solving; for ms and J, the stages are measured first"):
        solved = classifier.plan(budget, batch)
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
