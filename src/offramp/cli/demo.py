"""``offramp demo``."""

import json
import shutil
import time
from itertools import accumulate
from pathlib import Path
from typing import Annotated

import typer

PAGE, DIGIT = "report.html", "digit.png"


def run(
    out: Annotated[Path, typer.Option(help="Run folder; an earlier demo in it is replaced.", metavar="DIR")] = Path(
        "runs/demo"
    ),
) -> None:
    """The main job in two minutes: train on handwritten digits, calibrate, classify under budgets and deadlines.

    Uses the digits that come with scikit-learn; nothing is downloaded.
    """
    from offramp.catalog import lookup
    from offramp.classifier.run_folder import IN_RUN
    from offramp.cli.reporting import Report, show, write_report
    from offramp.cli.show import say
    from offramp.cli.training import TrainOptions, train_with_progress

    began = time.perf_counter()
    recipe = lookup("recipe", "digits", "recipes", "RECIPES")
    _clear(out, {*IN_RUN, PAGE, DIGIT})
    say(f"training {recipe.variant} on {recipe.source}: {recipe.epochs} epochs …")
    classifier, source = train_with_progress(recipe, TrainOptions(out))
    stages = classifier.anytime().stage_clock(1)
    steps = tuple(accumulate(stages.allow_ms(k) for k in range(classifier.net.num_exits)))
    report = Report.make(classifier, source, None, [_deadline(steps, k) for k in _deadline_exits(len(steps))])
    show(report, None, csv=None, page=None, as_json=False)
    page = out / PAGE
    write_report(report, page)
    say(
        "\nDigits are easy: exit 0 is nearly as good as the last. What deeper exits are worth shows on CIFAR-10 (README)."
    )
    say(f"Done in {time.perf_counter() - began:.0f} s. The curves are in {page}.")
    digit = out / DIGIT
    source.split("test").image(0).save(digit)
    middle = classifier.costs.format((classifier.costs.at_exit[0] + classifier.costs.at_exit[-1]) / 2).replace(" ", "")
    commands = (
        (f"offramp predict {out} {digit} --budget {middle} --top-k 3", "classify an image under a budget"),
        (f"offramp evaluate {out} --sweep paper", "the published evaluation"),
        (f"offramp cost {recipe.variant}", "what each exit costs"),
        ("offramp train cifar10 --data-root DIR", "the same with CIFAR-10"),
    )
    say("\nNext:")
    width = max(len(command) for command, _ in commands)
    for command, purpose in commands:
        say(f"  {command:{width}}  {purpose}")


def _clear(out: Path, ours: set[str]) -> None:
    """Take away an earlier demo, and nothing else."""
    from offramp.classifier.run_folder import RECIPE
    from offramp.errors import ArtifactError

    if not out.exists():
        return
    found = {entry.name for entry in out.iterdir()} if out.is_dir() else {out.name}
    if not found <= ours or (found and not _is_demo(out / RECIPE)):
        raise ArtifactError(f"{out}: holds something else than an earlier demo; choose another --out")
    shutil.rmtree(out)


def _is_demo(recipe: Path) -> bool:
    try:
        return bool(json.loads(recipe.read_text())["source"] == "digits")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _deadline_exits(num_exits: int) -> tuple[int, int, int]:
    return 0, (num_exits - 1) // 2, num_exits - 1


def _deadline(steps_ms: tuple[float, ...], k: int) -> float:
    """A deadline that exit k keeps with as much time again to spare."""
    return round(2 * steps_ms[k] + 1, 1)
