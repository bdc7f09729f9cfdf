"""``offramp calibrate``."""

import os

from offramp.cli.options import (
    BadImages,
    Data,
    DataRoot,
    Device,
    HoldoutIndices,
    HoldoutSize,
    Model,
    OnBadImage,
    PrecisionName,
    RuntimeName,
    Threads,
    Unseen,
    WorkerCount,
)


def run(
    model: Model,
    data: Data = None,
    data_root: DataRoot = None,
    holdout: HoldoutSize = None,
    holdout_indices: HoldoutIndices = None,
    workers: WorkerCount = None,
    on_bad_image: BadImages = OnBadImage.error,
    unseen: Unseen = False,
    runtime: RuntimeName = "auto",
    precision: PrecisionName = "fp32",
    threads: Threads = None,
    device: Device = "auto",
) -> None:
    """Run the calibrate split once and keep its scores in the model folder, so that any budget can be solved.

    The calibrate split is held out of the training images by seed and never augmented. Calibrate again after every
    change of weights or preprocessing; a calibration of other weights is refused. Each precision has its own; for int8
    the network is first quantised, with ranges seen on training images (never augmented either).
    """
    from offramp.classifier.checks import check_classes
    from offramp.classifier.entry import SHIPPED, find
    from offramp.classifier.folder import INT8, calibration_name, read
    from offramp.cli.device import pick_device
    from offramp.cli.opening import DataOptions, check_holdout, open_data, warn_of_few
    from offramp.cli.show import counting, remark, say, waiting
    from offramp.errors import ArtifactError
    from offramp_runtime.precision import check_precision

    chosen = check_precision(precision)
    folder = find(model)
    if SHIPPED in folder.parents:
        raise ArtifactError(
            f"'{model}' is part of the package, which stays as it is; make a copy and calibrate that: "
            f"python -c \"import offramp; offramp.load('{model}', runtime='eager').save('my-{model}')\""
        )
    if not os.access(folder, os.W_OK):
        raise ArtifactError(f"{folder}: may not be written; check its permissions or copy the model")
    classifier = read(folder, calibrated=False)  # whatever is wrong with the old scores, new ones replace them
    classifier.net.to(pick_device(device))
    options = DataOptions(data_root, workers, on_bad_image is OnBadImage.skip, holdout, holdout_indices)
    source = open_data(classifier, data, options)
    check_classes(classifier.classes, source)
    check_holdout(classifier, source, unseen)
    if chosen == "int8":
        from offramp.classifier.quantised import quantise

        (folder / calibration_name(chosen)).unlink(missing_ok=True)  # of the graph that is replaced
        with waiting("quantising: writing the graph, looking at training images, about two minutes"):
            quantise(classifier, source, folder / INT8)
    with waiting(f"getting runtime '{runtime}' ready"):
        classifier.use(runtime, precision=precision, threads=threads)
    with counting("calibrating", len(source.calibrate_indices)) as done:
        calibration = classifier.calibrate(source, done)
    calibration.save(folder / calibration_name(chosen))
    if classifier.about.get("source", {}).get("name") is None:
        remark(
            f"the model does not say that its training left the hold-out of '{source.name}' (seed {source.holdout.seed}) "
            "alone; if it has seen those images, budgets will be spent too early"
        )
    warn_of_few(calibration)
    accuracy = ", ".join(f"{100 * share:.1f}" for share in calibration.correct.mean(axis=1))
    say(
        f"calibrated {folder} in {chosen} on {len(calibration.indices):,} held-out images of {source.name}; "
        f"top-1 % per exit: {accuracy}"
    )
    budget = classifier.costs.format(_middle(classifier.costs.at_exit)).replace(" ", "")
    option = "" if chosen == "fp32" else f" --precision {chosen}"
    say(f"next: offramp predict {model} IMAGES… --budget {budget}{option}")


def _middle(costs: tuple[float, ...]) -> float:
    return (costs[0] + costs[-1]) / 2
