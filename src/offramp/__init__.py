"""Image classification under a budget: networks with several exits, answers before a deadline or within a mean cost."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from offramp.classifier import Classifier, Predictions, create, import_checkpoint, load
    from offramp.costs import Costs
    from offramp.errors import ArtifactError, BudgetError, ConfigError, DataError, MissingExtraError, OfframpError

_HOMES = {
    "Classifier": "classifier",
    "Predictions": "classifier",
    "create": "classifier",
    "import_checkpoint": "classifier",
    "load": "classifier",
    "Costs": "costs",
    "ArtifactError": "errors",
    "BudgetError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "MissingExtraError": "errors",
    "OfframpError": "errors",
}

__all__ = [
    "ArtifactError",
    "BudgetError",
    "Classifier",
    "ConfigError",
    "Costs",
    "DataError",
    "MissingExtraError",
    "OfframpError",
    "Predictions",
    "create",
    "import_checkpoint",
    "load",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562), so that ``import offramp`` stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'offramp' has no attribute '{name}'")
    return getattr(importlib.import_module(f"offramp.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]
