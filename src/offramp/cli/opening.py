"""Opening what the arguments name."""

from pathlib import Path

from offramp.catalog import lookup
from offramp.classifier import Classifier
from offramp.data.source import Source, SourceSpec
from offramp.errors import DataError


def open_data(classifier: Classifier, name: str | None, data_root: Path | None) -> Source:
    """The data set called ``name``, by default the one the model was trained on, with the hold-out it was trained with.

    Raises:
        ConfigError: no such data set.
        DataError: neither named nor known.
    """
    trained = classifier.about.get("source", {})
    name = name or trained.get("name")
    if name is None:
        raise DataError("this model does not say which data set it was made for; name one with --data")
    spec: SourceSpec = lookup("data set", name, "data", "SOURCES")
    return spec.open(data_root, trained.get("holdout_seed", 0) if trained.get("name") == name else 0)


def check_holdout(classifier: Classifier, source: Source) -> None:
    """Refuse to calibrate on other images than training left alone.

    Raises:
        DataError: the data set is the one of the training, but its hold-out is drawn differently now.
    """
    trained = classifier.about.get("source", {})
    known = trained.get("holdout_sha256")
    if trained.get("name") == source.name and known not in (None, source.holdout_digest):
        raise DataError(
            f"the hold-out of '{source.name}' (seed {source.seed}) is not the one this model's training left alone; "
            "use the offramp and NumPy releases it was trained with"
        )
