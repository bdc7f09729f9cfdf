"""Runtimes of exported graphs, for tensors."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from offramp.runtimes import Cancellation
from offramp_runtime.stages import InterruptibleStages


class ExportedRuntime:
    """Stages that compute with arrays, seen as a runtime of tensors on the CPU; nothing is copied on the way.

    Args:
        stages: of one network.
    """

    def __init__(self, stages: InterruptibleStages[Any]) -> None:
        self._stages = stages

    @property
    def num_exits(self) -> int:
        """K."""
        return self._stages.num_exits

    def start(self, images: Tensor) -> Any:
        """State before stage 0, for normalised images (N, C, H, W)."""
        return self._stages.start(images.numpy())

    def step(self, k: int, state: Any) -> tuple[Any, Tensor]:
        """Run stage k; returns the next state and the logits (N, C) of exit k."""
        state, logits = self._stages.step(k, state)
        return state, torch.from_numpy(logits)

    def step_unless(self, cancelled: Cancellation, k: int, state: Any) -> tuple[Any, Tensor] | None:
        """:meth:`step`, or None when ``cancelled`` was set before the stage was done."""
        done = self._stages.step_unless(cancelled, k, state)
        return None if done is None else (done[0], torch.from_numpy(done[1]))

    def take(self, state: Any, rows: Tensor) -> Any:
        """The state of the samples ``rows`` (indices, (M,)), in that order."""
        return self._stages.take(state, rows.numpy())

    def join(self, states: Sequence[Any]) -> Any:
        """The states of several batches before the same stage, at least one, as that of one batch."""
        return self._stages.join(states)

    def direct(self, k: int, images: Tensor) -> Tensor:
        """Logits (N, C) of exit k, skipping earlier exits and whatever only they need."""
        return torch.from_numpy(self._stages.direct(k, images.numpy()))
