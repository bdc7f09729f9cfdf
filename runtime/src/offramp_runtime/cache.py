"""What takes long to make and can always be made again, kept between starts."""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from offramp_runtime.errors import ArtifactError, reason

_COMPLETE = "complete.json"
"""Written last into a folder; what it belongs to."""
_UNFINISHED = ".unfinished-"
_ABANDONED_S = 24 * 3600
"""Nothing takes so long to make."""


def cache_folder() -> Path:
    """``$OFFRAMP_CACHE``, else ``offramp`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``."""
    named = os.environ.get("OFFRAMP_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "offramp"


def key_of(belongs_to: Mapping[str, object]) -> str:
    """A short digest of plain values."""
    return hashlib.sha256(json.dumps(dict(belongs_to), sort_keys=True).encode()).hexdigest()[:32]


def digest_of(files: Iterable[Path]) -> str:
    """Of their contents, in this order."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def cached(kind: str, belongs_to: Mapping[str, object], make: Callable[[Path], object]) -> Path:
    """The folder that ``make`` has filled, now or at an earlier start.

    Several processes may ask at once: each sees a whole folder or none.

    Args:
        kind: what it holds; names a folder of the cache.
        belongs_to: plain values; the folder is that of exactly these.
        make: fills an empty folder.

    Raises:
        ArtifactError: the cache cannot be written.
    """
    place = cache_folder() / kind / key_of(belongs_to)
    if (place / _COMPLETE).is_file():
        return place
    with _writing(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(place.parent)
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=place.parent))
    try:
        make(unfinished)
        with _writing(place.parent):
            (unfinished / _COMPLETE).write_text(json.dumps(dict(belongs_to), sort_keys=True))
            _flush(unfinished)
            try:
                unfinished.rename(place)
            except OSError:
                if not (place / _COMPLETE).is_file():  # nobody was faster
                    raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return place


def unusable(folder: Path, error: Exception) -> ArtifactError:
    """What to raise where something kept in the cache does not open."""
    return ArtifactError(f"{folder}: cannot be opened ({reason(error)}); remove this folder, and it is made anew")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{folder}: cannot be written ({error.strerror or error}); "
            "name a folder that can in the environment variable OFFRAMP_CACHE"
        ) from error


def _flush(folder: Path) -> None:
    """To disk, so that a folder which is there after a power cut is whole."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _remove_abandoned(folder: Path) -> None:
    """What processes have left that were killed while they filled it."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        with suppress(OSError):  # another process was faster
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)
