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
"""Written last into a folder: what it belongs to, and the digests of its files."""
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

    Several processes may ask at once: each sees a whole folder or none. A folder with a file that is missing or has changed
    since is made anew.

    Args:
        kind: what it holds; names a folder of the cache.
        belongs_to: plain values; the folder is that of exactly these.
        make: fills an empty folder.

    Raises:
        ArtifactError: the cache cannot be written.
    """
    place = cache_folder() / kind / key_of(belongs_to)
    if _is_whole(place):
        return place
    with _writing(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(place.parent)
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=place.parent))
    try:
        make(unfinished)
        with _writing(place.parent):
            files = {path.relative_to(unfinished).as_posix(): digest_of([path]) for path in _files(unfinished)}
            complete = {"belongs_to": dict(belongs_to), "files": files}
            (unfinished / _COMPLETE).write_text(json.dumps(complete, sort_keys=True))
            _flush(unfinished)
            _replace(place, unfinished)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return place


def _is_whole(place: Path) -> bool:
    """Whether everything is there as it was made."""
    try:
        files = json.loads((place / _COMPLETE).read_text())["files"]
        return all(digest_of([place / name]) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _replace(place: Path, made: Path) -> None:
    """Put a whole folder in its place, unless another process was faster."""
    try:
        made.rename(place)
    except OSError:  # there is a folder already
        if _is_whole(place):
            return
        damaged = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=place.parent))
        with suppress(FileNotFoundError):
            place.rename(damaged / place.name)
        shutil.rmtree(damaged, ignore_errors=True)
        made.rename(place)


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
    for path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _remove_abandoned(folder: Path) -> None:
    """What processes have left that were killed while they filled it."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        with suppress(OSError):  # another process was faster
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)
