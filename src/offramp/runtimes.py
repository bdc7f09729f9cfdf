"""The protocols everything above the networks is written against, and nothing else."""

from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

import torch

from offramp_runtime.cancellation import Cancellation as Cancellation

S = TypeVar("S")


@runtime_checkable
class Runtime(Protocol[S]):
    """Computes a multi-exit network one stage at a time; ``S`` is a state only the runtime itself understands."""

    @property
    def num_exits(self) -> int:
        """K."""
        ...

    def start(self, images: torch.Tensor) -> S:
        """State before stage 0, for normalised images (N, C, H, W)."""
        ...

    def step(self, k: int, state: S) -> tuple[S, torch.Tensor]:
        """Run stage k; returns the next state and the logits (N, C) of exit k."""
        ...

    def take(self, state: S, rows: torch.Tensor) -> S:
        """The state of the samples ``rows`` (indices, (M,)), in that order."""
        ...

    def join(self, states: Sequence[S]) -> S:
        """The states of several batches before the same stage, at least one, as that of one batch."""
        ...


@runtime_checkable
class DirectRuntime(Runtime[S], Protocol[S]):
    """A runtime that can also go straight to one exit."""

    def direct(self, k: int, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, C) of exit k, skipping earlier exits and whatever only they need."""
        ...


@runtime_checkable
class InterruptibleRuntime(Runtime[S], Protocol[S]):
    """A runtime that can give a stage up midway."""

    def step_unless(self, cancelled: Cancellation, k: int, state: S) -> tuple[S, torch.Tensor] | None:
        """:meth:`step`, or None when ``cancelled`` was set before the stage was done; ``state`` stays usable."""
        ...
