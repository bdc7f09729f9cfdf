"""TensorBoard events beside the metrics, where TensorBoard is installed."""

import contextlib
import importlib.util
import os
import socket
import time
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from offramp.errors import ArtifactError


class Events:
    """Writes the lines of ``metrics.jsonl`` as scalars; without TensorBoard it writes nothing.

    TensorBoard's own writer has a thread, whose errors nobody could catch; this one writes at once.
    """

    def __init__(self, path: Path, file: BinaryIO | None) -> None:
        self._path, self._file = path, file

    @classmethod
    def open(cls, folder: Path, step: int) -> Self:
        """Into ``folder``; what an earlier process wrote after ``step`` is taken back.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        path = folder / f"events.out.tfevents.{time.time_ns():020}.{socket.gethostname()}.{os.getpid()}"
        if importlib.util.find_spec("tensorboard") is None:
            return cls(path, None)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            events = cls(path, path.open("wb"))
        except OSError as error:
            raise _unwritable(path, error) from error
        events._put(file_version="brain.Event:2")
        events._put(step=step + 1, session_log={"status": 1})  # which is the first step that is taken back
        return events

    def write(self, line: dict[str, Any]) -> None:
        """One epoch.

        Raises:
            ArtifactError: the disk is full.
        """
        values = {
            f"{name}/exit{k}": value for name in ("losses", "calibrate_top1") for k, value in enumerate(line[name])
        }
        values["images_per_s"] = line["images_per_s"]
        pairs = [{"tag": tag, "simple_value": value} for tag, value in values.items()]
        self._put(step=line["step"], summary={"value": pairs})

    def _put(self, **event: Any) -> None:
        if self._file is None:
            return
        with warnings.catch_warnings(action="ignore"):  # of its dependencies
            from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
            from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
        try:
            RecordWriter(self._file).write(Event(wall_time=time.time(), **event).SerializeToString())
            self._file.flush()
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # what could not be written has been told
                self._file.close()


def _unwritable(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"{path}: cannot be written ({error.strerror}); check the folder and the disk")
