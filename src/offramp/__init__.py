"""Image classification under a budget: networks with several exits, answers before a deadline or within a mean cost."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from offramp.classifier import Classifier, Predictions, create, ensemble, import_checkpoint, load
    from offramp.classifier.converting import convert
    from offramp.engine.anytime import AnytimePredictor
    from offramp.errors import ArtifactError, BudgetError, ConfigError, DataError, MissingExtraError, OfframpError
    from offramp.nets.attached import attach_exits
    from offramp_runtime.costs import Costs

_HOMES = {
    "AnytimePredictor": "offramp.engine.anytime",
    "Classifier": "offramp.classifier",
    "Predictions": "offramp.classifier",
    "attach_exits": "offramp.nets.attached",
    "convert": "offramp.classifier.converting",
    "create": "offramp.classifier",
    "ensemble": "offramp.classifier",
    "import_checkpoint": "offramp.classifier",
    "load": "offramp.classifier",
    "Costs": "offramp_runtime.costs",
    "ArtifactError": "offramp.errors",
    "BudgetError": "offramp.errors",
    "ConfigError": "offramp.errors",
    "DataError": "offramp.errors",
    "MissingExtraError": "offramp.errors",
    "OfframpError": "offramp.errors",
}

__all__ = [
    "AnytimePredictor",
    "ArtifactError",
    "BudgetError",
    "Classifier",
    "ConfigError",
    "Costs",
    "DataError",
    "MissingExtraError",
    "OfframpError",
    "Predictions",
    "attach_exits",
    "convert",
    "create",
    "ensemble",
    "import_checkpoint",
    "load",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562), so that ``import offramp`` stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'offramp' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]
