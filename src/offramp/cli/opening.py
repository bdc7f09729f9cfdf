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
