"""TensorBoard events beside the metrics, where TensorBoard is installed."""

import importlib.util
import warnings
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Events:
    """Writes the lines of ``metrics.jsonl`` as scalars; without TensorBoard it writes nothing."""

    def __init__(self, writer: "SummaryWriter | None") -> None:
        self._writer = writer

    @classmethod
    def open(cls, folder: Path, step: int) -> Self:
        """Into ``folder``; what an earlier process wrote after ``step`` is taken back."""
        if importlib.util.find_spec("tensorboard") is None:
            return cls(None)
        with warnings.catch_warnings(action="ignore"):  # of its dependencies
            from torch.utils.tensorboard import SummaryWriter
        return cls(SummaryWriter(str(folder), purge_step=step + 1))  # which is the first step that is taken back

    def write(self, line: dict[str, Any]) -> None:
        """One epoch."""
        if self._writer is None:
            return
        for name in ("losses", "calibrate_top1"):
            for k, value in enumerate(line[name]):
                self._writer.add_scalar(f"{name}/exit{k}", value, line["step"])
        self._writer.add_scalar("images_per_s", line["images_per_s"], line["step"])
        self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
