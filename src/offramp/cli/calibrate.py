"""``offramp calibrate``."""

from typing import Annotated

import typer

from offramp.cli.options import DataRoot, Model


def run(
    model: Model,
    data: Annotated[str | None, typer.Option(help="Data set; by default the one the model was trained on.")] = None,
    data_root: DataRoot = None,
) -> None:
    """Run the calibrate split once and keep its scores in the model folder, so that any budget can be solved.

    The calibrate split is held out of the training images by seed and never augmented. Calibrate again after every
    change of weights or preprocessing; a calibration of other weights is refused.
    """
    from offramp.classifier import load
    from offramp.classifier.entry import find
    from offramp.classifier.folder import save
    from offramp.cli.opening import open_data
    from offramp.cli.show import counting, remark, say

    folder = find(model)
    classifier = load(folder)
    source = open_data(classifier, data, data_root)
    with counting("calibrating", source.spec.holdout) as done:
        calibration = classifier.calibrate(source, done)
    save(classifier, folder)
    if classifier.about.get("source", {}).get("name") != source.name:
        remark(
            f"the model does not say that its training left the hold-out of '{source.name}' (seed {source.seed}) alone; "
            "if it has seen those images, budgets will be spent too early"
        )
    accuracy = ", ".join(f"{100 * share:.1f}" for share in calibration.correct.mean(axis=1))
    say(
        f"calibrated {folder} on {len(calibration.indices):,} held-out images of {source.name}; top-1 % per exit: {accuracy}"
    )
    budget = classifier.costs.format(_middle(classifier.costs.at_exit)).replace(" ", "")
    say(f"next: offramp predict {model} IMAGES… --budget {budget}")


def _middle(costs: tuple[float, ...]) -> float:
    return (costs[0] + costs[-1]) / 2
