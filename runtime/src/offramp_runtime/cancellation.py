"""Ending work that another thread does."""

import threading
from collections.abc import Callable


class Cancellation:
    """Asks work in another thread to stop; setting it is final."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = False
        self._then: list[Callable[[], None]] = []

    @property
    def is_set(self) -> bool:
        """Whether to stop; one lock-free read."""
        return self._set

    def set(self) -> None:
        """Ask to stop, and tell whoever attached."""
        with self._lock:
            self._set = True
            then, self._then = self._then, []
        for call in then:
            call()

    def attach(self, call: Callable[[], None]) -> None:
        """Have ``call`` called when it is set, at once if it is."""
        with self._lock:
            if not self._set:
                self._then.append(call)
                return
        call()
