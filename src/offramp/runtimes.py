"""The two protocols everything above the networks is written against, and nothing else."""

from typing import Protocol, TypeVar, runtime_checkable

import torch

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


@runtime_checkable
class DirectRuntime(Runtime[S], Protocol[S]):
    """A runtime that can also go straight to one exit."""

    def direct(self, k: int, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, C) of exit k, skipping earlier exits and whatever only they need."""
        ...
