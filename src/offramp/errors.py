"""Errors raised on purpose: each says the value, the rule and the way out, on one line."""

from offramp_runtime.errors import (
    ArtifactError,
    BudgetError,
    ConfigError,
    DataError,
    MissingExtraError,
    OfframpError,
    reason,
)

__all__ = [
    "ArtifactError",
    "BudgetError",
    "ConfigError",
    "DataError",
    "InterruptedRunError",
    "MissingExtraError",
    "OfframpError",
    "OfframpWarning",
    "TrainingError",
    "reason",
]


class OfframpWarning(UserWarning):
    """Something worth knowing although nothing has failed."""


class TrainingError(OfframpError):
    """A training has gone where it cannot come back from."""


class InterruptedRunError(OfframpError):
    """A signal asked a run to stop, and it has stopped in order."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        # What a shell expects of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM.
        self.exit_code = 128 + signal_number
