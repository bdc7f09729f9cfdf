"""Finds named entries by listing a package's modules and the matching entry points."""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from offramp.errors import ConfigError

MOST_NAMES = 60
"""That an error lists."""


@cache
def entries(package: str, constant: str) -> dict[str, Any]:
    """All entries of the dictionaries called ``constant`` in the modules of ``offramp.<package>``.

    Modules of other distributions take part through the entry-point group ``offramp.<package>``, each naming a module
    with the same constant.

    Raises:
        ConfigError: two modules define the same name.
    """
    root = importlib.import_module(f"offramp.{package}")
    own = (importlib.import_module(f"{root.__name__}.{module.name}") for module in pkgutil.iter_modules(root.__path__))
    foreign = (point.load() for point in entry_points(group=f"offramp.{package}"))
    found: dict[str, Any] = {}
    for module in (*own, *foreign):
        for name, entry in getattr(module, constant, {}).items():
            if name in found:
                raise ConfigError(
                    f"'{name}' is defined twice in the catalog '{package}'; rename the one in {module.__name__}"
                )
            found[name] = entry
    return found


def lookup(kind: str, name: str, package: str, constant: str) -> Any:
    """The entry called ``name``.

    Raises:
        ConfigError: there is none; near names are offered.
    """
    known = entries(package, constant)
    if name not in known:
        raise ConfigError(f"no {kind} is called '{name}'; {suggest(name, known)}")
    return known[name]


def suggest(name: str, known: Iterable[str]) -> str:
    """A way out for a name nobody knows: the nearest names, else all of them, or where many are listed."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.7)
    if near:
        return "did you mean " + " or ".join(f"'{one}'" for one in near) + "?"
    if len(names) > MOST_NAMES:
        return f"`offramp list` shows the {len(names)} there are"
    return "there are: " + ", ".join(names) if names else "there are none"
