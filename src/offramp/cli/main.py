"""``offramp``: the commands, and how errors are told."""

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import typer

from offramp import __version__
from offramp.cli.show import complain, remark
from offramp.errors import OfframpError, OfframpWarning
from offramp_runtime.memory import keep_memory

COMMANDS = (
    "demo", "predict", "evaluate", "calibrate", "plan", "export", "train", "runs", "recipe show", "data check", "data fetch",
    "list", "cost", "convert", "ensemble", "import-checkpoint", "export-checkpoint",
)  # fmt: skip
"""Each in the module of its name, as a function ``run``, in the order of ``--help``; two words are a group's command."""

GROUPS = {
    "recipe": "Recipes: every value that changes the weights.",
    "data": "Data sets: look one over, or get a public one.",
}

_INTERRUPTED = 130

_USAGE_ERROR: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
"""Typer carries click inside from 0.26 on and depends on it before; both have this base class."""

app = typer.Typer(
    name="offramp",
    help="Classify images under a budget: networks with several exits, answers before a deadline or within a mean cost.",
    epilog="Start with: offramp demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"offramp {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    del version


_homes = {"": app} | {group: typer.Typer(help=purpose, no_args_is_help=True) for group, purpose in GROUPS.items()}

for _command in COMMANDS:
    _group, _, _name = _command.rpartition(" ")
    _module = importlib.import_module(f"offramp.cli.{_command.replace('-', '_').replace(' ', '_')}")
    _homes[_group].command(_name)(_module.run)
for _group in GROUPS:
    app.add_typer(_homes[_group], name=_group)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 2 refused, 130 or 143 interrupted."""
    keep_memory()
    with warnings.catch_warnings():
        warnings.showwarning = _show(warnings.showwarning)
        return _run(arguments)


def _show(others: Callable[..., None]) -> Callable[..., None]:
    """Shows warnings of this package as what they are, and others as before."""

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if issubclass(category, OfframpWarning):
            remark(str(message))
        else:
            others(message, category, *place)

    return show


def _run(arguments: Sequence[str] | None) -> int:
    try:
        result = typer.main.get_command(app)(args=arguments, prog_name="offramp", standalone_mode=False)
    except OfframpError as error:
        return complain(str(error), error.exit_code)
    except _USAGE_ERROR as error:
        message = str(getattr(error, "format_message")()).rstrip(".")  # noqa: B009 - the class is found at run time
        if "\n" in message:  # no arguments at all: the message is the help
            sys.stderr.write(message + "\n")
            return 2
        return complain(f"{message}{'' if message.endswith('?') else ';'} see --help")
    except (KeyboardInterrupt, typer.Abort):
        return complain("interrupted", _INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    code = result if isinstance(result, int) else 0
    # Some releases of Typer turn Ctrl-C into an exit code and say nothing.
    return complain("interrupted", code) if code == _INTERRUPTED else code
