"""One process per run folder, and an orderly end when a signal asks for one."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from filelock import FileLock, Timeout

from offramp.classifier.run_folder import LOCK
from offramp.errors import ArtifactError

_PATIENCE_S = 1.0
"""A listing of runs holds locks for a moment, to see whether they are held."""


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the operating system lets go of it however the process ends.

    Raises:
        ArtifactError: another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / LOCK, timeout=_PATIENCE_S).acquire()
    except Timeout:
        raise ArtifactError(f"{folder}: another run is writing there; wait for it, or choose another --out") from None
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be written ({error.strerror or error}); check its permissions") from None
    with held:
        yield


class StopSignals:
    """Notes SIGINT and SIGTERM instead of dying of them; a second one ends the process at once."""

    WATCHED = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None
        """The signal that came."""
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        with contextlib.suppress(ValueError):  # only the main thread may watch; elsewhere nobody sends signals
            for number in self.WATCHED:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()
