"""In how many bits a network computes."""

from typing import Literal, get_args

from offramp_runtime.errors import ConfigError

Precision = Literal["fp32", "bf16", "int8"]


def check_precision(name: str) -> Precision:
    """The precision called ``name``.

    Raises:
        ConfigError: there is none.
    """
    for precision in get_args(Precision):
        if precision == name:
            found: Precision = precision
            return found
    raise ConfigError(f"precision '{name}': choose one of {', '.join(get_args(Precision))}")
