"""The calibration as a file of a model folder."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

import offramp_runtime.calibration
from offramp.errors import ArtifactError
from offramp_runtime.files import check_format, write_atomic

FORMAT, VERSION = "offramp-calibration", 1


@dataclass(frozen=True, eq=False)
class Calibration(offramp_runtime.calibration.Calibration):
    """Scores of held-out, un-augmented images, of which any budget is solved in milliseconds."""

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        about = {
            "format": FORMAT,
            "version": VERSION,
            "source": self.source,
            "seed": self.seed,
            "identity": self.identity,
            "sha256": self.digest(),
        }
        data = save(self.arrays(), {"about": json.dumps(about)})
        write_atomic(path, lambda file: file.write(data))

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """What :meth:`save` wrote.

        Raises:
            ArtifactError: damaged, not a calibration, or from a newer release.
        """
        try:
            with safe_open(path, "numpy") as file:
                about = json.loads((file.metadata() or {}).get("about", "{}"))
                check_format(path, about.get("format"), about.get("version"), FORMAT, VERSION)
                arrays = {name: file.get_tensor(name) for name in ("confidence", "correct", "indices")}
            loaded = cls(**arrays, source=about["source"], seed=about["seed"], identity=about["identity"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"{path}: the calibration is damaged ({error}); calibrate again") from None
        shape = loaded.confidence.shape
        if len(shape) != 2 or loaded.correct.shape != shape or len(loaded.indices) != shape[1] or shape[1] == 0:
            raise ArtifactError(f"{path}: the calibration's arrays do not fit together; calibrate again")
        if about.get("sha256") != loaded.digest():
            raise ArtifactError(f"{path}: the calibration's scores are not those that were written; calibrate again")
        return loaded
