"""``offramp predict``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from offramp.cli.options import Device, Json, Model, PrecisionName, RuntimeName, Threads


def run(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Image files.", metavar="IMAGES…")],
    budget: Annotated[str | None, typer.Option(help="Mean cost per image, such as 30MMAC or 2ms.")] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(help="Answer within so many milliseconds from decoded pixels.")
    ] = None,
    exit: Annotated[int | None, typer.Option(help="Answer everything at this exit, counted from 0.")] = None,
    plan: Annotated[
        Path | None, typer.Option(help="Spend as a plan file says (see `offramp plan`).", metavar="FILE")
    ] = None,
    top_k: Annotated[int, typer.Option(help="Classes to show per image.", min=1)] = 1,
    runtime: RuntimeName = "auto",
    precision: PrecisionName = "fp32",
    threads: Threads = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Classify image files, by default at the last exit; or under a budget, before a deadline, at one exit, by a plan.

    Images are turned upright, resized and cropped as the model wants. A deadline counts for all images of the call
    together, which run as one batch.
    """
    from offramp.cli.running import make_ready, read_model
    from offramp.cli.show import counting, say, say_json, say_table, waiting
    from offramp.report.tables import Table
    from offramp_runtime.checks import check_ways
    from offramp_runtime.plan import ExitPlan

    classifier = read_model(model, precision=precision, device=device, calibrated=budget is not None)
    ways = {"budget": budget, "deadline_ms": deadline_ms, "exit": exit, "plan": plan}
    check_ways(ways, classifier.net.num_exits)
    solved = ExitPlan.load(plan) if plan is not None else None
    pixels = classifier.intake.decode(images)
    make_ready(classifier, runtime, precision, threads)
    if budget is not None:
        with waiting("solving; for ms and J, the stages are measured first"):
            solved = classifier.plan(budget, len(images))
    with counting("classifying", len(images)) as done:
        found = classifier.predict(pixels, deadline_ms=deadline_ms, exit=exit, plan=solved, report=done)
    probabilities = found.probabilities
    rows: list[dict[str, Any]] = []
    for row, (path, k) in enumerate(zip(images, found.exit_index.tolist(), strict=True)):
        best = (-probabilities[row]).argsort(kind="stable")[:top_k].tolist()
        classes = [{"class": classifier.classes[c], "probability": float(probabilities[row, c])} for c in best]
        rows.append({"image": str(path), "exit": k, "top": classes})
    if json:
        say_json(rows)
        return
    cells = tuple(
        (row["image"], str(row["exit"]), ", ".join(f"{t['class']} {100 * t['probability']:.1f} %" for t in row["top"]))
        for row in rows
    )
    title = f"{len(images)} image{'s'[: len(images) > 1]} ({classifier.running.described})"
    say_table(title, Table(("image", "exit", "answer"), cells))
    if solved is not None:
        costs = solved.costs
        spent = sum(costs.at_exit[k] for k in found.exit_index.tolist()) / len(images)
        measured = ", by what stages take on this machine" if costs.unit != "MAC" else ""
        say(f"\nspent on average: {costs.format(spent)} an image{measured}; a budget is a mean over many")
