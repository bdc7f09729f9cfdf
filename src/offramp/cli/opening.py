"""Opening what the arguments name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offramp.catalog import entries
from offramp.classifier import Classifier
from offramp.cli.show import counting, remark, say
from offramp.data.detect import named_source
from offramp.data.holdout import Holdout, read_indices
from offramp.data.scan import Finding, without_unreadable
from offramp.data.source import Samples, Sift, Source
from offramp.data.workers import Workers
from offramp.decide.calibration import Calibration
from offramp.errors import ArtifactError, DataError

_SHOWN = 20
_FEW = 200
"""Below this a share of images has a standard deviation of 3 percent points and more."""


@dataclass(frozen=True)
class DataOptions:
    """How the data set of a command is read."""

    data_root: Path | None = None
    workers: int | None = None
    skip_bad: bool = False
    holdout: int | None = None
    holdout_indices: Path | None = None

    @property
    def processes(self) -> Workers:
        """That decode."""
        return Workers() if self.workers is None else Workers(self.workers)

    @property
    def sift(self) -> Sift | None:
        """Leaves unreadable images out, where that was asked for, and says which."""
        return self._leave_out if self.skip_bad else None

    def cut(self, seed: int) -> Holdout:
        """The hold-out of a training."""
        indices = read_indices(self.holdout_indices) if self.holdout_indices else None
        return Holdout(seed, self.holdout, indices)

    def _leave_out(self, samples: Samples) -> Samples:
        with counting("looking for unreadable images", len(samples)) as done:
            return without_unreadable(samples, self.processes, _tell, done)


def check_new(out: Path) -> None:
    """Refuse to write over a file.

    Raises:
        ArtifactError: it is there.
    """
    if out.exists():
        raise ArtifactError(f"--out {out}: is there already; name another file")


def open_data(classifier: Classifier, name: str | None, options: DataOptions) -> Source:
    """The data set called ``name``, by default the one the model was trained on, with the hold-out it was trained with.

    Raises:
        ConfigError: no such data set.
        DataError: neither named nor known.
    """
    trained = classifier.about.get("source", {})
    given = name
    name = name or trained.get("name")
    if name is None:
        raise DataError("this model does not say which data set it was made for; name one with --data")
    if name == trained.get("name") and not given and name not in entries("data", "SOURCES"):
        raise DataError(f"this model was trained on a folder of yours, '{name}'; name it with --data")
    spec = named_source(name, classifier.preprocessing)
    if options.holdout or options.holdout_indices or trained.get("name") != spec.name:
        holdout = options.cut(0)
    else:
        holdout = _holdout_of(trained)
    return spec.open(options.data_root, holdout, classifier.preprocessing, options.processes, options.sift)


def check_holdout(classifier: Classifier, source: Source, unseen: bool) -> None:
    """Refuse to take images for held out that training may have seen.

    Args:
        classifier: the model.
        source: whose calibrate split is meant.
        unseen: whether the user says that training has seen nothing of this data set.

    Raises:
        DataError: the data set is the one of the training, but its hold-out is drawn differently now; or it is another
            one, and nobody says that it was not seen.
    """
    trained = classifier.about.get("source", {})
    if trained.get("name") not in (None, source.name) and not unseen:
        raise DataError(
            f"this model was trained on '{trained['name']}', and nothing tells whether it has seen the images of "
            f"'{source.name}'; give --unseen if it has not"
        )
    known = trained.get("holdout_sha256")
    if trained.get("name") == source.name and known not in (None, source.holdout_digest):
        raise DataError(
            f"the hold-out of '{source.name}' (seed {source.holdout.seed}) is not the one this model's training left alone; "
            "use the same files, the same --on-bad-image, and the offramp and NumPy releases it was trained with"
        )


def warn_of_few(calibration: Calibration) -> None:
    """Say so where budgets are solved from few images."""
    count = len(calibration.indices)
    if count < _FEW:
        say(f"{count} images held out are few to solve budgets from: what is spent may be off by tens of percent")


def _holdout_of(trained: dict[str, Any]) -> Holdout:
    indices = trained.get("holdout_indices")
    found = None if indices is None else np.array(indices, np.int64)
    return Holdout(trained.get("holdout_seed", 0), trained.get("holdout"), found)


def _tell(left_out: list[Finding]) -> None:
    remark(f"left out {len(left_out)} unreadable images:")
    for finding in left_out[:_SHOWN]:
        remark(f"  {finding.problem}")
    if len(left_out) > _SHOWN:
        remark(f"  … and {len(left_out) - _SHOWN} more; `offramp data check` lists all")
