"""Whether the host waits for the GPU anywhere in a whole training step, and the step as a CUDA graph."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from graphed import GraphedStep
from training_paths import MIXED, streaming
from world import Trial, World, expect, need_cuda, worst

from offramp.train.trainer import Trainer

_ASLEEP = 1_500_000_000
"""Clock ticks, most of a second."""


def no_wait(**changes: Any) -> Trial:
    """Steps on both sides of an epoch's end, first with PyTorch refusing to wait, then behind a GPU that sleeps."""

    def run(world: World) -> str:
        need_cuda(world)
        return never_waits(world.trainer(**changes))

    return run


def no_wait_streamed(world: World) -> str:
    """The same where workers decode."""
    need_cuda(world)
    return never_waits(streaming(world))


def never_waits(trainer: Trainer) -> str:
    """Refuses to wait, then gives a step to a sleeping GPU."""
    count = trainer.steps_per_epoch + 1
    for _ in range(count):  # bring everything to the device that is brought once
        trainer.advance()
    torch.cuda.synchronize()
    with waiting_refused():
        for _ in range(count):
            trainer.advance()
    torch.cuda.synchronize()
    # The refusal does not know of everything that waits; a host that comes back while the GPU sleeps has not waited.
    awake = torch.cuda.Event()  # type: ignore[no-untyped-call]
    torch.cuda._sleep(_ASLEEP)  # type: ignore[no-untyped-call]
    awake.record()
    trainer.advance()
    ahead = not awake.query()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    expect(ahead, "the host waited for the GPU")
    return f"{count} steps without waiting, one given to a sleeping GPU"


def graphed(**changes: Any) -> Trial:
    """Twelve steps, as they are and with a graph, give the same weights."""

    def run(world: World) -> str:
        need_cuda(world)
        torch.backends.cudnn.deterministic = True
        try:
            plain, replayed = world.trainer(**changes), with_graph(world.trainer(**changes))
            for _ in range(12):
                plain.advance()
                replayed.advance()
        finally:
            torch.backends.cudnn.deterministic = False
        off = worst(plain.net.state_dict(), replayed.net.state_dict())
        expect(off < 1e-3, f"weights differ by {off:.2g}")
        with waiting_refused():
            replayed.advance()
        return "bit-equal" if off == 0 else f"NOT bit-equal, weights differ by up to {off:.2g}"

    return run


def with_graph(trainer: Trainer) -> Trainer:
    """The trainer, whose steps are replayed from now on."""
    step = trainer._do
    trainer._do = GraphedStep(trainer.net, trainer.optimizer, step.weights, trainer.recipe)
    return trainer


@contextlib.contextmanager
def waiting_refused() -> Iterator[None]:
    """PyTorch raises instead of waiting for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


PATHS: dict[str, Trial] = {
    "no waiting, fp32": no_wait(),
    "no waiting, bf16 and average": no_wait(precision="bf16", ema_decay=0.9),
    "no waiting, fp16 and clipping": no_wait(precision="fp16", clip_norm=0.5),
    "no waiting, cutout, mixup and lighting": no_wait(**MIXED),
    "no waiting, streamed feed": no_wait_streamed,
    "no waiting, compiled": no_wait(compile=True),
    "CUDA graph (experiment), fp32": graphed(),
    "CUDA graph (experiment), fp16, accumulated, clipped": graphed(precision="fp16", accumulate=2, clip_norm=0.5),
}
