"""``offramp export-checkpoint``."""

from pathlib import Path
from typing import Annotated

import typer

from offramp.cli.options import Model


def run(
    model: Model,
    out: Annotated[Path, typer.Option(help="File to write; one that is there is not replaced.", metavar="FILE")],
    code: Annotated[
        str,
        typer.Option(
            "--for",
            help="Whose code loads it: efficient-densenet (gpleiss/efficient_densenet_pytorch), torchvision (timm too), "
            "or condensenet (ShichenLiu/CondenseNet).",
            metavar="CODE",
        ),
    ],
) -> None:
    """Write the weights of a DenseNet or CondenseNet as a checkpoint that public code loads."""
    from offramp.catalog import lookup
    from offramp.classifier.entry import find
    from offramp.classifier.folder import read
    from offramp.cli.opening import check_new
    from offramp.cli.show import say

    write = lookup("checkpoint format", code, "nets.foreign", "WRITERS")
    check_new(out)
    write(read(find(model), calibrated=False).net, out)
    say(f"wrote {out} for {code}; import it again with: offramp import-checkpoint {out} --out DIR")
