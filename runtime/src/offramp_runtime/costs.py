"""The price of a sample at each exit."""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from offramp_runtime.errors import BudgetError, ConfigError

UNITS: dict[str, tuple[str, float]] = {
    "MAC": ("MAC", 1.0),
    "KMAC": ("MAC", 1e3),
    "MMAC": ("MAC", 1e6),
    "GMAC": ("MAC", 1e9),
    "us": ("ms", 1e-3),
    "ms": ("ms", 1.0),
    "s": ("ms", 1e3),
    "uJ": ("J", 1e-6),
    "mJ": ("J", 1e-3),
    "J": ("J", 1.0),
}
"""What budgets may be written in, each with the unit of :class:`Costs` it means and the factor."""


@dataclass(frozen=True)
class Costs:
    """What one sample costs that leaves at exit k."""

    at_exit: tuple[float, ...]
    """(K,), increasing where ``kind`` is cumulative."""
    unit: Literal["MAC", "ms", "J"]
    kind: Literal["cumulative", "direct"] = "cumulative"
    """``cumulative``: with all earlier exits, as staged evaluation pays it; ``direct``: that exit alone."""
    note: str = ""
    """How they were obtained, where that is not plain."""

    def __post_init__(self) -> None:
        if not self.at_exit or not all(0 < cost < float("inf") for cost in self.at_exit):
            raise ConfigError(f"costs {self.at_exit}: give one positive cost per exit")
        if self.kind == "cumulative" and any(b <= a for a, b in pairwise(self.at_exit)):
            raise ConfigError(f"costs {self.at_exit}: cumulative costs must increase from exit to exit")

    def format(self, value: float) -> str:
        """``value`` with the unit a person would choose, e.g. ``13.2 MMAC``."""
        return format_cost(value, self.unit)


def format_cost(value: float, unit: str) -> str:
    """A cost in ``unit`` (MAC, ms or J) with the unit a person would choose."""
    if unit == "ms":
        return f"{value:.3g} ms"
    names = ("J", "mJ", "uJ") if unit == "J" else ("GMAC", "MMAC", "KMAC", "MAC")
    name = next((name for name in names if value >= UNITS[name][1]), names[-1])
    return f"{value / UNITS[name][1]:.4g} {name}"


def parse_budget(budget: float | str) -> tuple[float, str | None]:
    """A budget as (number, unit): ``30e6`` → (30e6, None), ``"30MMAC"`` → (30e6, "MAC"), ``"5mJ"`` → (0.005, "J").

    Raises:
        BudgetError: not a positive number, or a unit nobody knows.
    """
    if isinstance(budget, str):
        match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ]*)\s*", budget)
        if match is None:
            raise BudgetError(f"budget '{budget}': write a positive number and a unit, such as 30MMAC or 2ms")
        text, unit = match.groups()
        known = {name.lower(): entry for name, entry in UNITS.items()}
        if unit and unit.lower() not in known:
            raise BudgetError(f"budget '{budget}': unit '{unit}' is unknown; there are {', '.join(UNITS)}")
        base, factor = known[unit.lower()] if unit else (None, 1.0)
        try:
            value = float(text) * factor
        except ValueError:
            raise BudgetError(f"budget '{budget}': '{text}' is not a number; write it like 30MMAC") from None
    else:
        value, base = float(budget), None
    if not 0 < value < float("inf"):
        raise BudgetError(f"budget {budget}: must be a positive number per image")
    return value, base
