"""Work on images spread over processes, with an end that is heard of when one of them dies."""

import contextlib
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader

from offramp.errors import DataError

Result = TypeVar("Result")

_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""Those this process may run on, which a container may have fewer of than the machine."""


class Work(Protocol):
    """What a worker does for one key; it must survive pickling, for processes that are spawned."""

    def __getitem__(self, key: Any) -> Any: ...


@dataclass(frozen=True)
class Workers:
    """How many processes decode images, and how they are started."""

    count: int = min(8, _CORES)
    """0 decodes in the process itself."""
    start: Literal["fork", "spawn", "forkserver"] | None = None
    """None leaves it to Python."""
    ahead: int = 2
    """Batches each process prepares in advance: what bounds the memory."""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise DataError(f"{self.count} workers: give a number of processes, 0 for none")

    def run(
        self, work: Work, batches: Iterable[list[Any]], pack: Callable[[list[Any]], Result], *, pin: bool = False
    ) -> Iterator[Result]:
        """``pack([work[key] for key in batch])`` for every batch, in order.

        Args:
            work: done for every key, in the workers.
            batches: lists of keys; read a little ahead of what is asked for.
            pack: makes one value of a batch, in the workers too; tensors travel through shared memory.
            pin: whether tensors go to page-locked memory, from which a GPU copies while it computes.

        Raises:
            DataError: a worker died.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # as many processes as were asked for
            loader: DataLoader[Any] = DataLoader(
                work,  # type: ignore[arg-type]
                batch_sampler=batches,
                collate_fn=pack,
                num_workers=self.count,
                prefetch_factor=self.ahead if self.count else None,
                multiprocessing_context=self.start if self.count else None,
                pin_memory=pin,
                generator=torch.Generator(),  # or it would draw from the global one
                worker_init_fn=_behave,
            )
            prepared = _started(loader)
        try:
            yield from prepared
        except (RuntimeError, ConnectionError, EOFError) as error:
            if not self._lost_a_worker(error):
                raise
            raise DataError(
                "a process that decodes images was killed, perhaps for want of memory (in a container of shared memory: "
                f"--shm-size); go on with fewer than {self.count} --workers"
            ) from None
        finally:
            if self.count:  # left to the garbage collector, as after an error, it takes seconds for each of them
                prepared._shutdown_workers()

    def _lost_a_worker(self, error: Exception) -> bool:
        """Whether a process died, rather than that the work itself failed ("Caught … in DataLoader worker …")."""
        if isinstance(error, RuntimeError):
            return str(error).startswith("DataLoader worker")
        return self.count > 0 and not str(error).startswith("Caught ")  # it died as a batch was being fetched from it


def _started(loader: "DataLoader[Any]") -> Any:
    """Its iterator, without its handler of SIGCHLD.

    That would raise wherever the caller is when a worker dies, out of reach of :meth:`Workers.run`. Without it the loss is
    noticed when the next batch is late.
    """
    before = signal.getsignal(signal.SIGCHLD)
    with _deaf_children(loader.multiprocessing_context or multiprocessing):
        batches = iter(loader)
    if before is not None and signal.getsignal(signal.SIGCHLD) is not before:
        signal.signal(signal.SIGCHLD, before)
    return batches


@contextlib.contextmanager
def _deaf_children(context: Any) -> Iterator[None]:
    """Processes started meanwhile never hear of Ctrl-C: a fresh interpreter needs seconds until it could say so itself."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    if context.get_start_method() != "fork":
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # it lets signals through again when it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _behave(_worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; stopping is the parent's business, which ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.excepthook = _complain


def _complain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Tell what nobody caught, but for a parent that was killed while it fetched a batch."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
