"""What every way to run a bundle's graphs offers."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from offramp_runtime.cancellation import Cancellation
from offramp_runtime.errors import ConfigError

S = TypeVar("S")


def check_exit(k: int, num_exits: int) -> None:
    """Refuse an exit that is not there.

    Raises:
        ConfigError: it is not.
    """
    if not 0 <= k < num_exits:
        raise ConfigError(f"exit {k}: this network has exits 0 … {num_exits - 1}; give one of them")


class Stages(Protocol[S]):
    """Computes a multi-exit network one stage at a time; ``S`` is a state only the implementation understands.

    States are never changed: stepping the same one twice gives the same twice. All methods may be called from any thread.
    """

    @property
    def num_exits(self) -> int:
        """K."""
        ...

    def start(self, images: NDArray[np.float32]) -> S:
        """State before stage 0, for normalised images (N, C, H, W)."""
        ...

    def step(self, k: int, state: S) -> tuple[S, NDArray[np.float32]]:
        """Run stage k; returns the next state and the logits (N, C) of exit k, an array of their own."""
        ...

    def take(self, state: S, rows: NDArray[np.int64]) -> S:
        """The state of the samples ``rows`` (M,), in that order."""
        ...

    def join(self, states: Sequence[S]) -> S:
        """The state of all samples of several states, one after the other."""
        ...

    def direct(self, k: int, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (N, C) of exit k, skipping earlier exits and whatever only they need."""
        ...


class InterruptibleStages(Stages[S], Protocol[S]):
    """Stages that can be given up midway."""

    def step_unless(self, cancelled: Cancellation, k: int, state: S) -> tuple[S, NDArray[np.float32]] | None:
        """:meth:`step`, or None when ``cancelled`` was set before the stage was done; ``state`` stays usable."""
        ...
