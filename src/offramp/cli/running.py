"""Opening a model with what shall run it."""

from offramp.classifier import Classifier
from offramp.classifier.entry import find
from offramp.classifier.folder import read
from offramp.cli.device import pick_device
from offramp.cli.show import waiting
from offramp_runtime.precision import check_precision


def open_model(
    model: str,
    *,
    runtime: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    device: str = "auto",
    calibrated: bool = False,
) -> Classifier:
    """The model, run as asked: :func:`read_model`, then :func:`make_ready`."""
    classifier = read_model(model, precision=precision, device=device, calibrated=calibrated)
    return make_ready(classifier, runtime, precision, threads)


def read_model(model: str, *, precision: str = "fp32", device: str = "auto", calibrated: bool = False) -> Classifier:
    """The model, so that arguments can be checked before a runtime is made ready for it.

    Args:
        model: folder or name.
        precision: name.
        device: name, or auto.
        calibrated: whether a calibration will be needed.
    """
    classifier = read(find(model))
    if calibrated:
        classifier.calibrations.needed(check_precision(precision))
    classifier.net.to(pick_device(device))
    return classifier


def make_ready(classifier: Classifier, runtime: str, precision: str, threads: int | None) -> Classifier:
    """Have it run as asked; says what takes long meanwhile.

    Args:
        classifier: any.
        runtime: name, or auto.
        precision: name.
        threads: of one call.
    """
    with waiting(f"getting runtime '{runtime}' ready; for a new network this takes up to a minute, once"):
        return classifier.use(runtime, precision=precision, threads=threads)
