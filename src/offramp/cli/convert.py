"""``offramp convert``."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from offramp.cli.options import Data, DataRoot, Model, Unseen, WorkerCount

if TYPE_CHECKING:
    from offramp.classifier import Classifier
    from offramp.data.source import Source
    from offramp.nets.condensenet import Form


class FormName(StrEnum):
    """What layers become."""

    fastest = "fastest"
    grouped = "grouped"
    folded = "folded"
    dense = "dense"
    ungrouped = "ungrouped"


def run(
    model: Model,
    out: Annotated[Path, typer.Option(help="Model folder to write.", metavar="DIR")],
    condense_classifier: Annotated[
        bool,
        typer.Option(
            "--condense-classifier",
            help="Also keep only half of the last layer's inputs, and fine-tune what is left on training images.",
        ),
    ] = False,
    form: Annotated[
        FormName, typer.Option(help="Of all layers, instead of what is measured here.", case_sensitive=False)
    ] = FormName.fastest,
    data: Data = None,
    data_root: DataRoot = None,
    workers: WorkerCount = None,
    unseen: Unseen = False,
) -> None:
    """Turn a trained CondenseNet into one without masks, which computes only what its training has left.

    Or more, where that is clearly faster: each layer takes the form that is the fastest here, and --form fixes one. Forms are
    grouped (gathered inputs and grouped convolutions, the least to compute), folded (the same with the shuffle folded into
    the next weights), dense (1x1 convolutions with zeros) and ungrouped (all with zeros). Answers stay the same up to
    rounding. With --condense-classifier they do not: accuracy on held-out images is shown before, after, and after the
    fine-tune. The model has to be calibrated anew (offramp calibrate DIR); with --data or --condense-classifier this is done
    at once.
    """
    from offramp.classifier.checks import check_classes
    from offramp.classifier.converting import check_convertible, convert
    from offramp.classifier.entry import find
    from offramp.classifier.folder import check_free, read
    from offramp.cli.opening import DataOptions, check_holdout, open_data, warn_of_few
    from offramp.cli.show import counting, remark, say, waiting

    check_free(out)
    classifier = read(find(model))
    check_convertible(classifier)
    wanted = condense_classifier or data is not None
    source = open_data(classifier, data, DataOptions(data_root, workers)) if wanted else None
    if source is not None:
        check_classes(classifier.classes, source)
        check_holdout(classifier, source, unseen)
    chosen = None if form is FormName.fastest else cast("Form", form.value)
    with waiting("converting" if chosen else "measuring which form of each layer is the fastest here"):
        made = convert(classifier, condense_classifier=condense_classifier, form=chosen)
    if source is not None and condense_classifier:
        _fine_tune(classifier, made, source)
    elif source is not None:
        with counting("calibrating", len(source.calibrate_indices)) as done:
            made.calibrate(source, done)
    if made.calibration is not None:
        warn_of_few(made.calibration)
    made.save(out)
    forms = ", ".join(f"{count} {form}" for form, count in made.about["converted"]["forms"].items())
    ours, theirs = (sum(weight.numel() for weight in one.net.parameters()) for one in (made, classifier))
    costs = [one.costs.at_exit[-1] for one in (classifier, made)]
    macs = [classifier.costs.format(cost) for cost in costs]
    say(f"wrote {out}: layers {forms}; {theirs:,} → {ours:,} parameters, {macs[0]} → {macs[1]}")
    if set(made.about["converted"]["forms"]) != {"grouped"}:
        least = convert(classifier, condense_classifier=condense_classifier, form="grouped").costs.at_exit[-1]
        why = "" if chosen else ", and was clearly faster here"
        remark(f"that computes more than the {classifier.costs.format(least)} of --form grouped{why}")
    if source is None:
        say(f"next: offramp calibrate {out} --data NAME")


def _fine_tune(classifier: "Classifier", made: "Classifier", source: "Source") -> None:
    """Train what is left of the classifier, calibrate, and tell what each step did to the accuracy."""
    from offramp.cli.show import counting, say
    from offramp.train.halving import fine_tune

    held_out, train = len(source.calibrate_indices), source.split("train")
    with counting("before: looking at held-out images", held_out) as done:
        before = classifier.calibrate(source, done).correct.mean()
    with counting("condensed: looking at held-out images", held_out) as done:
        condensed = made.calibrate(source, done).correct.mean()
    with counting("fine-tuning the last layer", len(train)) as done:
        fine_tune(made, train, done)
    with counting("fine-tuned: looking at held-out images", held_out) as done:
        after = made.calibrate(source, done).correct.mean()
    say(
        f"top-1 on {held_out:,} held-out images: {100 * before:.2f} % before, {100 * condensed:.2f} % with half of the "
        f"classifier, {100 * after:.2f} % after its fine-tune"
    )
