"""A run in another thread whose newest answer can be had at any time."""

import math
import threading
from collections.abc import Callable
from types import TracebackType

from offramp.errors import BudgetError
from offramp.runtimes import Cancellation
from offramp_runtime.checks import check_deadline
from offramp_runtime.predictions import Predictions


class AnytimeRun:
    """Answers getting deeper in another thread, until the last exit or :meth:`cancel`. As a context it cancels at the end.

    Args:
        clock: seconds; deadlines count from now.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.cancelled = Cancellation()
        self._clock = clock
        self._began = clock()
        self._latest: Predictions | None = None
        self._failure: BaseException | None = None
        self._over = threading.Event()

    def latest(self) -> Predictions | None:
        """The newest answer, None before exit 0 has one. One lock-free read.

        Do not ask in a loop without pause: it takes the interpreter from the thread that computes. Use :meth:`wait`.
        """
        return self._latest

    @property
    def done(self) -> bool:
        """Whether no deeper answer will come: the last exit has answered, or the run was cancelled or failed."""
        return self._over.is_set()

    def wait(self, deadline_ms: float = math.inf) -> Predictions:
        """The newest answer ``deadline_ms`` after the start, or the last one as soon as none will follow.

        The run goes on; cancel it if that was all.

        Raises:
            BudgetError: no exit has answered by then, or before the run was cancelled.
        """
        check_deadline(deadline_ms)
        if deadline_ms == math.inf:
            self._over.wait()
        else:
            self._over.wait(max(0, self._began + deadline_ms / 1e3 - self._clock()))
        if self._failure is not None:
            raise self._failure
        latest = self._latest
        if latest is None:
            when = "before it was cancelled" if self._over.is_set() else f"within {deadline_ms:g} ms"
            raise BudgetError(f"exit 0 had no answer {when}; allow more time, or take a smaller network")
        return latest

    def cancel(self) -> None:
        """Stop as soon as the runtime lets go: within the stage if it can, else after it. The newest answer stays."""
        self.cancelled.set()
        self._over.set()

    def publish(self, answer: Predictions) -> None:
        """Make this the newest answer, unless the run was cancelled."""
        if not self.cancelled.is_set:
            self._latest = answer

    def follow(self, compute: Callable[[], None]) -> None:
        """Have the answers computed, in the calling thread; a failure is what :meth:`wait` raises."""
        try:
            compute()
        except BaseException as failure:  # whatever it is, it belongs to who asked
            self._failure = failure
        finally:
            self._over.set()

    def __enter__(self) -> "AnytimeRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
