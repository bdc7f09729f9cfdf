"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Argument(help="Model folder, run folder, or the name of a shipped model.", metavar="MODEL")
]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder that holds the data set's folder, e.g. the one above cifar10/.", metavar="DIR"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
