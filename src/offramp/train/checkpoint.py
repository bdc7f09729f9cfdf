"""Training checkpoints: everything a resumed run needs, written atomically, read without unpickling code."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from offramp.errors import ArtifactError
from offramp.files import check_format, write_atomic

FORMAT, VERSION = "offramp-checkpoint", 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain values) to ``path``."""
    # Into memory first: torch.save to a file turns a full disk into an error of its own that does not say so.
    packed = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **state}, packed)
    write_atomic(path, lambda file: file.write(packed.getbuffer()))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What :func:`save_checkpoint` wrote, on the CPU.

    Raises:
        ArtifactError: missing, damaged, not one of ours, or from a newer release.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
            if (part := archive.testzip()) is not None:
                raise zipfile.BadZipFile(part)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: there is no checkpoint to resume from; leave --resume out") from None
    except Exception as error:  # a damaged pickle may raise anything
        raise ArtifactError(
            f"{path}: the checkpoint is damaged or of another program ({type(error).__name__}); start the run anew"
        ) from None
    if not isinstance(state, dict):
        raise ArtifactError(f"{path}: not an offramp checkpoint; check the path")
    check_format(path, state.get("format"), state.get("version"), FORMAT, VERSION)
    return state
