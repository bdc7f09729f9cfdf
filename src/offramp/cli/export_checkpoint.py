"""``offramp export-checkpoint``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from offramp.cli.options import Model


class Code(StrEnum):
    """Who is to load the file."""

    efficient_densenet = "efficient-densenet"
    torchvision = "torchvision"
    condensenet = "condensenet"


def run(
    model: Model,
    out: Annotated[Path, typer.Option(help="File to write; one that is there is not replaced.", metavar="FILE")],
    code: Annotated[
        Code,
        typer.Option(
            "--for",
            help="Whose code loads it: efficient-densenet (gpleiss/efficient_densenet_pytorch), torchvision (timm too), "
            "or condensenet (ShichenLiu/CondenseNet).",
        ),
    ],
) -> None:
    """Write the weights of a DenseNet or CondenseNet as a checkpoint that public code loads."""
    from offramp.classifier.entry import find
    from offramp.classifier.folder import read
    from offramp.cli.show import say
    from offramp.errors import ArtifactError
    from offramp.nets.foreign import condensenet_pytorch, densenet_pytorch

    if out.exists():
        raise ArtifactError(f"--out {out}: is there already; name another file")
    net = read(find(model), calibrated=False).net
    if code is Code.condensenet:
        condensenet_pytorch.write(net, out)
    else:
        densenet_pytorch.write(net, out, "torchvision" if code is Code.torchvision else "efficient")
    say(f"wrote {out} for {code}; import it again with: offramp import-checkpoint {out} --out DIR")
