"""What takes long to make and can always be made again, kept between starts."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from offramp_runtime.errors import ArtifactError

_COMPLETE = "complete.json"
"""Written last into a folder; what it belongs to."""


def cache_folder() -> Path:
    """``$OFFRAMP_CACHE``, else ``offramp`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``."""
    named = os.environ.get("OFFRAMP_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "offramp"


def key_of(belongs_to: Mapping[str, object]) -> str:
    """A short digest of plain values."""
    return hashlib.sha256(json.dumps(dict(belongs_to), sort_keys=True).encode()).hexdigest()[:32]


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
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=place.parent))
        try:
            make(unfinished)
            (unfinished / _COMPLETE).write_text(json.dumps(dict(belongs_to), sort_keys=True))
            try:
                unfinished.rename(place)
            except OSError:
                if not (place / _COMPLETE).is_file():  # nobody was faster
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise ArtifactError(
            f"{place.parent}: cannot be written ({error.strerror or error}); "
            "name a folder that can in the environment variable OFFRAMP_CACHE"
        ) from error
    return place
