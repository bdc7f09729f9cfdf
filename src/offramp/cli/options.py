"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class OnBadImage(StrEnum):
    """What an unreadable image does."""

    error = "error"
    skip = "skip"


Model = Annotated[
    str, typer.Argument(help="Model folder, run folder, or the name of a shipped model.", metavar="MODEL")
]
Data = Annotated[
    str | None,
    typer.Option(
        help="Data set by name, or a folder of images of yours; by default the model's or recipe's own.",
        metavar="NAME|FOLDER",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder that holds the data set's folder, e.g. the one above cifar10/.", metavar="DIR"),
]
WorkerCount = Annotated[
    int | None,
    typer.Option("--workers", help="Processes that decode images; by default one per core, at most 8.", min=0),
]
BadImages = Annotated[
    OnBadImage,
    typer.Option(help="Stop at an image that cannot be read, or leave all such images out and list them."),
]
HoldoutSize = Annotated[
    int | None,
    typer.Option(
        "--holdout",
        help="Training images set aside for calibration; by default a tenth, of public sets as published.",
        metavar="N",
        min=1,
    ),
]
HoldoutIndices = Annotated[
    Path | None,
    typer.Option(help="Set these training images aside: .txt, .npy, or public code's index.pth.", metavar="FILE"),
]
Unseen = Annotated[
    bool,
    typer.Option("--unseen", help="The model has never seen this data, though it is not what it was trained on."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto: cuda where there is one.")]
RuntimeName = Annotated[
    str,
    typer.Option(
        "--runtime",
        help="What computes: eager, compiled, native, onnx, openvino, or auto: the fastest here, measured once.",
        metavar="NAME",
    ),
]
PrecisionName = Annotated[
    str, typer.Option("--precision", help="fp32, bf16 or int8; each has a calibration of its own.", metavar="NAME")
]
Threads = Annotated[
    int | None, typer.Option(help="Threads that compute one call; by default one per core.", min=1, metavar="N")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
