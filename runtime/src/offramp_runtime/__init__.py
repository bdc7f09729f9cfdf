"""Opens exported multi-exit networks and answers under a budget, with NumPy and an inference runtime; no PyTorch."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from offramp_runtime.errors import (
        ArtifactError,
        BudgetError,
        ConfigError,
        DataError,
        MissingExtraError,
        OfframpError,
    )
    from offramp_runtime.loading import load
    from offramp_runtime.model import Model
    from offramp_runtime.plan import ExitPlan
    from offramp_runtime.predictions import Predictions

_HOMES = {
    "ArtifactError": "errors",
    "BudgetError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "ExitPlan": "plan",
    "MissingExtraError": "errors",
    "Model": "model",
    "OfframpError": "errors",
    "Predictions": "predictions",
    "load": "loading",
}

__all__ = [
    "ArtifactError",
    "BudgetError",
    "ConfigError",
    "DataError",
    "ExitPlan",
    "MissingExtraError",
    "Model",
    "OfframpError",
    "Predictions",
    "load",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'offramp_runtime' has no attribute '{name}'")
    return getattr(importlib.import_module(f"offramp_runtime.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]
