"""Runtime ``eager``: PyTorch, one operator after the other, on any device it knows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from offramp.engine.opening import RuntimeSpec, Subject
from offramp.nets.base import MultiExitNet
from offramp.runtimes import Cancellation
from offramp.shapes import State


class EagerRuntime:
    """The network's inference form, in channels-last layout.

    Dense features are concatenated, but for grouped CondenseNets on the CPU in fp32, which have a buffer
    (``nets/condensenet/buffered.py``). For MSDNets a buffer per scale, into whose slices the layers write, was measured in
    both layouts: its slices are strided but for one image in NCHW, so convolutions copy them, and matrix products that can
    read them take as long as convolution and concatenation together. It gained little for one image and lost with 64.

    Args:
        net: any network; its weights are copied.
        precision: of weights and features, ``"fp32"`` or ``"bf16"``; logits are float32.
        device: where to compute.
    """

    def __init__(self, net: MultiExitNet, precision: str, device: torch.device) -> None:
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        fused = net.fused(eager=precision == "fp32" and device.type == "cpu")
        self._net = fused.to(device, self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def num_exits(self) -> int:
        """K."""
        return int(self._net.num_exits)

    def start(self, images: Tensor) -> State:
        """State before stage 0, for normalised images (N, C, H, W)."""
        return self._net.start(images.to(self._dtype))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def step(self, k: int, state: State) -> tuple[State, Tensor]:
        """Run stage k; returns the next state and the logits (N, C) of exit k."""
        state, logits = self._net.step(k, state)
        return state, logits.float()

    @torch.inference_mode()
    def step_unless(self, cancelled: Cancellation, k: int, state: State) -> tuple[State, Tensor] | None:
        """:meth:`step`, or None when ``cancelled`` was set before one of its cells."""
        done = self._net.step_unless(cancelled, k, state)
        return None if done is None else (done[0], done[1].float())

    def take(self, state: State, rows: Tensor) -> State:
        """The state of the samples ``rows`` (indices, (M,)), in that order."""
        return self._net.take(state, rows)  # type: ignore[no-any-return]

    def join(self, states: Sequence[State]) -> State:
        """The states of several batches before the same stage, at least one, as that of one batch."""
        return self._net.join(states)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def direct(self, k: int, images: Tensor) -> Tensor:
        """Logits (N, C) of exit k, skipping earlier exits and whatever only they need."""
        return self._net.direct(k, images.to(self._dtype)).float()  # type: ignore[no-any-return]


def _open(subject: Subject) -> EagerRuntime:
    return EagerRuntime(subject.net, subject.precision, subject.device)


RUNTIMES = {"eager": RuntimeSpec(("fp32", "bf16"), _open, lambda _subject: None)}
