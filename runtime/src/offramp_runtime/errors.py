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


def reason(error: BaseException) -> str:
    """What another library's error says, on one line."""
    return (str(error).strip() or repr(error)).splitlines()[0]
