"""``offramp recipe show``."""

import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offramp.cli.options import Json

if TYPE_CHECKING:
    from types import ModuleType

_WIDTH, _LEAST = 120, 24
"""Columns where no terminal says how many, and the fewest for the meaning."""


def run(
    name: Annotated[str, typer.Argument(help="Recipe by name, see `offramp list`.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a value, as in `offramp train`; repeat for more.", metavar="FIELD=VALUE"),
    ] = None,
    json: Json = False,
) -> None:
    """Show every value of a recipe and what it means, and what is known of the recipe."""
    import dataclasses
    import inspect

    from offramp.catalog import lookup
    from offramp.cli.show import say_json
    from offramp.train.recipe import Recipe

    recipe: Recipe = lookup("recipe", name, "recipes", "RECIPES").override(settings or [])
    meanings = _meanings(inspect.getsource(Recipe))
    fields = [
        {
            "field": field.name, "value": getattr(recipe, field.name),
            "default": None if field.default is dataclasses.MISSING else field.default,
            "meaning": meanings.get(field.name, ""),
        }
        for field in dataclasses.fields(Recipe)
    ]  # fmt: skip
    module = _module(name)
    evidence = inspect.getdoc(module) or "" if module else ""
    if json:
        say_json({"recipe": name, "fields": fields, "evidence": evidence})
    else:
        _say(fields, evidence)


def _meanings(source: str) -> dict[str, str]:
    """The docstrings under the fields of a class; Python itself drops them."""
    import ast
    from itertools import pairwise

    body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)).body
    meanings = {}
    for field, text in pairwise(body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                meanings[name] = " ".join(meaning.replace("``", "").split())
    return meanings


def _module(recipe: str) -> "ModuleType | None":
    """The one that holds the recipe; its docstring is the evidence."""
    import importlib
    import pkgutil
    from importlib.metadata import entry_points

    import offramp.recipes

    own = [module.name for module in pkgutil.iter_modules(offramp.recipes.__path__, "offramp.recipes.")]
    foreign = [point.module for point in entry_points(group="offramp.recipes")]
    modules = (importlib.import_module(name) for name in (*own, *foreign))
    return next((module for module in modules if recipe in getattr(module, "RECIPES", {})), None)


def _say(fields: list[dict[str, Any]], evidence: str) -> None:
    from offramp.cli.show import say

    rows = [("  field", "value", "default", "meaning")]
    for field in fields:
        differs = field["default"] != field["value"]
        default = _written(field["default"]) if differs and field["default"] is not None else ""
        rows.append(
            (f"{'*' if differs else ' '} {field['field']}", _written(field["value"]), default, field["meaning"])
        )
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    indent = sum(widths) + 2 * len(widths)
    for *cells, meaning in rows:
        start = "".join(f"{cell:{wide}}  " for cell, wide in zip(cells, widths, strict=True))
        first, *rest = textwrap.wrap(meaning, max(width - indent, _LEAST)) or [""]
        for line in (start + first, *(" " * indent + line for line in rest)):
            say(line.rstrip())
    say("\n* differs from the default, or has none")
    for paragraph in evidence.replace("``", "").split("\n\n") if evidence else ():
        say("\n" + textwrap.fill(paragraph, width))


def _written(value: object) -> str:
    """As ``--set`` takes it."""
    if isinstance(value, tuple):
        return ",".join(map(_written, value)) or "-"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value) or "-"
