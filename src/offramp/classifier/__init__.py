"""What users hold: a network with its class names, preprocessing, costs and calibration."""

from offramp.classifier.classifier import Classifier
from offramp.classifier.entry import create, ensemble, import_checkpoint, load
from offramp_runtime.predictions import Predictions

__all__ = ["Classifier", "Predictions", "create", "ensemble", "import_checkpoint", "load"]
