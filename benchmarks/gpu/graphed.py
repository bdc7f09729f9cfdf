"""An experiment: a training step whose forward and backward pass are replayed as one CUDA graph.

Sound for training, as far as the documentation of ``torch.cuda.graph`` goes, because all of it holds here:

- nothing in it waits for the device or depends on values, and shapes are fixed (one graph for each shape of a batch);
- what is captured has run before on a side stream, as real steps, so that no extra step changes norm statistics;
- gradients are None when the capture begins, so they lie in the graph's own memory and every replay overwrites them;
- what comes in is copied to where the graph looks for it, and what goes out is copied away before the next replay;
- rate, clipping, scaling and update stay outside, where they are few launches and may change from step to step.

``torch.compile(mode="reduce-overhead")`` is no alternative for a step that accumulates: the gradients of the first part
would lie in memory that the second part's graph reuses (pytorch/pytorch issues 96693 and 169545).
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from offramp.train.step import Step

_WARMUP = 3


@dataclass
class _Captured:
    """A graph with the memory it works on."""

    images: Tensor
    targets: Tensor
    graph: torch.cuda.CUDAGraph = field(default_factory=torch.cuda.CUDAGraph)
    losses: Tensor | None = None
    gradients: list[Tensor | None] = field(default_factory=list)


class GraphedStep(Step):
    """A :class:`Step` that replays forward and backward from the fourth batch of a shape on."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._seen: dict[tuple[int, ...], int] = {}
        self._captured: dict[tuple[int, ...], _Captured] = {}

    def backward(self, images: Tensor, targets: Tensor) -> Tensor:
        """As :meth:`Step.backward`."""
        key = (*images.shape, *targets.shape)
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._seen[key] <= _WARMUP:
            return self._aside(images, targets)
        if key not in self._captured:
            self._captured[key] = self._capture(images, targets)
        captured = self._captured[key]
        captured.images.copy_(images)
        captured.targets.copy_(targets)
        captured.graph.replay()
        for parameter, gradient in zip(self.parameters, captured.gradients, strict=True):
            parameter.grad = gradient
        assert captured.losses is not None  # it has been captured
        return captured.losses.clone()

    def _aside(self, images: Tensor, targets: Tensor) -> Tensor:
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            losses = super().backward(images, targets)
        torch.cuda.current_stream().wait_stream(self._side)
        return losses

    def _capture(self, images: Tensor, targets: Tensor) -> _Captured:
        captured = _Captured(images.clone(), targets.clone())
        # Other threads, such as the one that page-locks batches, may go on allocating meanwhile.
        with torch.cuda.graph(captured.graph, capture_error_mode="thread_local"):
            captured.losses = super().backward(captured.images, captured.targets)
        captured.gradients = [parameter.grad for parameter in self.parameters]
        return captured
