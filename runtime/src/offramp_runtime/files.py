"""Writing files so that a reader never sees half of one."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from offramp_runtime.errors import ArtifactError

_UNFINISHED = ".offramp-unfinished"
"""Ends the names of files that are being written."""


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write beside ``path``, flush to disk, then rename: afterwards there is the old file or the whole new one.

    Raises:
        ArtifactError: the folder cannot be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED)
        written = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            written.chmod(0o644)
            written.replace(path)
        except BaseException:
            written.unlink()
            raise
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot be written ({error.strerror or error}); check the folder and the disk"
        ) from error


def remove_unfinished(folder: Path) -> None:
    """Remove what writes to files of this folder have left that were killed midway; only where nobody else is writing.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    try:
        for path in folder.glob(f".*{_UNFINISHED}"):
            path.unlink()
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be written ({error.strerror}); check its permissions") from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomic(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: object) -> None:
    """Write readable JSON atomically."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, kind: str, version: int) -> dict[str, Any]:
    """Read a JSON file of ours, checking ``format`` and ``version``.

    Raises:
        ArtifactError: missing, damaged, of another format, or written by a newer release.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read as JSON ({error}); the file is damaged, make it anew") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: holds no {kind}; check the path")
    check_format(path, value.get("format"), value.get("version"), kind, version)
    return value


def check_format(path: Path, found_kind: object, found_version: object, kind: str, version: int) -> None:
    """Refuse files of another format or of a newer release by name."""
    if found_kind != kind or not isinstance(found_version, int):
        raise ArtifactError(f"{path}: format {found_kind!r} is not {kind!r}; check the path")
    if found_version > version:
        raise ArtifactError(
            f"{path}: {kind} version {found_version} is newer than this offramp understands ({version}); upgrade offramp"
        )
