"""Training checkpoints: everything a resumed run needs, written atomically, read without unpickling code."""

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from offramp.errors import ArtifactError
from offramp_runtime.files import check_format, write_atomic

FORMAT, VERSION = "offramp-checkpoint", 1
KEPT = 2
"""How many checkpoints are kept: the newest, and one to fall back on."""

_NAME = re.compile(r"step-(\d+)\.([0-9a-f]{64})\.pt")


class Checkpoints:
    """The checkpoints of a run, each a file whose name carries its step and the SHA-256 of its content.

    So one rename puts both the content and its checksum in place.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def files(self) -> list[Path]:
        """Oldest first."""
        found = self.folder.glob("step-*.pt")
        return sorted((path for path in found if _NAME.fullmatch(path.name)), key=_step)

    @property
    def exists(self) -> bool:
        """Whether there are any."""
        return bool(self.files)

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Write ``state`` (tensors and plain values), then let go of all but it and the newest of earlier steps.

        Raises:
            ArtifactError: the folder cannot be written or the disk is full; what was there is untouched.
        """
        # Into memory first: torch.save to a file turns a full disk into an error of its own that does not say so.
        packed = io.BytesIO()
        torch.save({"format": FORMAT, "version": VERSION, **state}, packed)
        content = packed.getbuffer()
        path = self.folder / f"step-{step:08d}.{hashlib.sha256(content).hexdigest()}.pt"
        write_atomic(path, lambda file: file.write(content))
        # Those of this step or later ones were passed over as damaged when the run was resumed: they are nothing to keep.
        others = [old for old in self.files if old != path]
        earlier = [old for old in others if _step(old) < step]
        for old in set(others) - set(earlier[::-1][: KEPT - 1]):
            old.unlink(missing_ok=True)
        return path

    def load(self, remark: Callable[[str], None]) -> dict[str, Any]:
        """The state of the newest sound checkpoint, on the CPU.

        Args:
            remark: told of each damaged one that is passed over.

        Raises:
            ArtifactError: there is none, or it is from a newer release.
        """
        files = self.files
        if not files:
            raise ArtifactError(f"{self.folder}: there is no checkpoint to resume from; leave --resume out")
        for path in reversed(files):
            content = _sound(path)
            if content is None:
                remark(
                    f"{path.name[:13]}: the checkpoint is damaged (its checksum differs); going back to the one before"
                )
                continue
            return _state(path, content)
        raise ArtifactError(f"{self.folder}: all checkpoints are damaged; start the run anew")


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match.group(1))


def _sound(path: Path) -> bytes | None:
    """The content, if it is what was written."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    return content if hashlib.sha256(content).hexdigest() == path.name.split(".")[1] else None


def _state(path: Path, content: bytes) -> dict[str, Any]:
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever is in the file, nothing of it is run
        raise ArtifactError(f"{path}: not an offramp checkpoint ({type(error).__name__}); start the run anew") from None
    if not isinstance(state, dict):
        raise ArtifactError(f"{path}: not an offramp checkpoint; check the path")
    check_format(path, state.get("format"), state.get("version"), FORMAT, VERSION)
    return state
