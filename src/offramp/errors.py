"""Errors raised on purpose: each says the value, the rule and the way out, on one line."""


class OfframpError(Exception):
    """Base of every error the package raises on purpose; the command line prints it without a traceback."""

    exit_code = 2
    """Of the command line."""


class ConfigError(OfframpError):
    """A network, recipe or option value breaks a rule."""


class DataError(OfframpError):
    """A data set or an image is missing, unreadable or not what it should be."""


class ArtifactError(OfframpError):
    """A file we read (model folder, checkpoint, calibration, plan) is damaged, foreign or too new."""


class BudgetError(OfframpError):
    """A budget or deadline that no exit can keep, or a unit that does not fit."""


class MissingExtraError(OfframpError):
    """An optional dependency is needed and not installed."""


class TrainingError(OfframpError):
    """A training has gone where it cannot come back from."""


class InterruptedRunError(OfframpError):
    """A signal asked a run to stop, and it has stopped in order."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        # What a shell expects of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM.
        self.exit_code = 128 + signal_number
