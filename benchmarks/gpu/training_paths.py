"""GPU paths of training."""

import io
import os
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from world import CONFIG, PREPROCESSING, RECIPE, Trial, World, expect, need_cuda, source, worst

from offramp.data.detect import named_source
from offramp.data.holdout import Holdout
from offramp.data.workers import Workers
from offramp.errors import InterruptedRunError
from offramp.train.feed import StreamedFeed
from offramp.train.groups import frozen_modules
from offramp.train.loop import Progress
from offramp.train.run import Run
from offramp.train.trainer import Trainer, build_seeded

CPU, WORKERS = torch.device("cpu"), Workers(2)
TOLERANCE = {"fp32": 0.01, "bf16": 0.05, "fp16": 0.05}
"""Share of the CPU's fp32 loss by which the first one may differ; convolutions may run in TF32."""


def steps(**changes: Any) -> Trial:
    """Three steps, whose first losses are the CPU's."""

    def run(world: World) -> str:
        if changes.get("compile"):
            need_cuda(world)
        trainer = world.trainer(**changes)
        before = copied(trainer.net)
        losses = torch.stack([trainer.advance() for _ in range(3)])
        expect(losses.device.type == world.device.type, f"the losses are on {losses.device}")
        expect(losses.isfinite().all(), f"losses {losses.tolist()}")
        expect(worst(before, trainer.net.state_dict()) > 0, "no weight has changed")
        plain = {name: value for name, value in changes.items() if name not in ("precision", "compile")}
        wanted = world.trainer(CPU, **plain).advance()
        off = float(((losses[0].cpu() - wanted) / wanted).abs().max())
        allowed = TOLERANCE[trainer.recipe.precision]
        expect(
            off < allowed, f"the first losses differ from the CPU's by {100 * off:.1f} % (allowed {100 * allowed:g} %)"
        )
        last = ", ".join(f"{value:.3f}" for value in losses[-1].tolist())
        return f"losses {last}; the first {100 * off:.2g} % off the CPU's"

    return run


def frozen(world: World) -> str:
    """The backbone stays, the exits learn."""
    trainer = world.trainer(freeze="backbone")
    kept = [copied(module) for module in frozen_modules(trainer.net, "backbone")]
    before = copied(trainer.net)
    for _ in range(3):
        trainer.advance()
    after = [module.state_dict() for module in frozen_modules(trainer.net, "backbone")]
    expect(all(worst(*pair) == 0 for pair in zip(kept, after, strict=True)), "the backbone has changed")
    expect(worst(before, trainer.net.state_dict()) > 0, "the exits have not")
    return f"{sum(map(len, kept))} tensors kept"


def streamed(world: World) -> str:
    """Class folders, decoded and cropped by workers; page-locked on the way to a GPU."""
    trainer = streaming(world)
    expect(isinstance(trainer._feed, StreamedFeed), f"the feed is a {type(trainer._feed).__name__}")
    batch = next(trainer._feed.batches(0, 1))
    expect(batch.images.device.type == world.device.type, f"the images are on {batch.images.device}")
    losses = torch.stack([trainer.advance() for _ in range(6)])  # three batches an epoch
    expect(losses.isfinite().all(), f"losses {losses.tolist()}")
    if world.device.type == "cuda":
        pinned = next(WORKERS.run(_Ones(), [[0, 1]], torch.stack, pin=True))
        expect(pinned.is_pinned(), "batches are not page-locked")
        return "6 steps over 2 epochs, page-locked"
    return "6 steps over 2 epochs"


def streaming(world: World) -> Trainer:
    """On images in class folders, written on the spot, of which each is cropped by itself."""
    for row in range(32):
        place = world.folder / "images" / "train" / "ab"[row % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(row).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{row}.png")
    spec = named_source(str(world.folder / "images"), PREPROCESSING)
    samples = spec.open(None, Holdout(0, 4), PREPROCESSING, WORKERS).split("train")
    recipe = replace(RECIPE, crop_area=(0.3, 1.0), batch_size=8)
    return Trainer(build_seeded(CONFIG.build, 0), recipe, samples, PREPROCESSING, world.device, WORKERS)


class _Ones:
    def __getitem__(self, key: object) -> Tensor:
        return torch.ones(3)


def layout(world: World) -> str:
    """Weights, gradients, momentum and images lie channels last."""
    trainer = world.trainer()
    trainer.advance()
    wide = [parameter for parameter in trainer.net.parameters() if parameter.ndim == 4]
    for parameter in wide:
        for tensor in (parameter, parameter.grad, trainer.optimizer.state[parameter]["momentum_buffer"]):
            last = tensor is not None and tensor.is_contiguous(memory_format=torch.channels_last)
            expect(last, f"a tensor of {tuple(parameter.shape)} is not channels last")
    return f"{len(wide)} convolutions"


def resumed(world: World) -> str:
    """Interrupted and not, with deterministic convolutions; says whether all bits are equal."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        whole, first, second = (world.trainer(ema_decay=0.9) for _ in range(3))
        for _ in range(8):
            whole.advance()
        for _ in range(3):
            first.advance()
        file = io.BytesIO()
        torch.save(first.state(), file)
        second.restore(torch.load(io.BytesIO(file.getvalue()), map_location="cpu", weights_only=True))
        for _ in range(5):
            second.advance()
    finally:
        torch.backends.cudnn.deterministic = before
    off = max(worst(one.state_dict(), other.state_dict()) for one, other in _both(whole, second))
    expect(off < 1e-3, f"weights differ by {off:.2g}")
    return "bit-equal" if off == 0 else f"NOT bit-equal, weights differ by up to {off:.2g}"


def _both(one: Trainer, other: Trainer) -> tuple[tuple[nn.Module, nn.Module], ...]:
    return (one.net, other.net), (one.result, other.result)


def whole_run(world: World) -> str:
    """A run stopped by a signal and resumed gives the model of one that was not; it comes calibrated."""
    recipe = replace(RECIPE, epochs=3, ema_decay=0.9)

    def stop(progress: Progress, _accuracy: object) -> None:
        if progress.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    straight = Run(recipe, source(), world.folder / "straight", world.device).train()
    broken = Run(recipe, source(), world.folder / "broken", world.device)
    try:
        broken.train(report=stop)
    except InterruptedRunError as error:
        told = str(error)
    else:
        told = ""
    expect("go on with --resume" in told, "the signal did not stop the run")
    again = broken.train(resume=True)
    expect(again.calibration is not None, "the model is not calibrated")
    off = worst(straight.net.state_dict(), again.net.state_dict())
    expect(off < 1e-2, f"weights differ by {off:.2g}")
    return "stopped, resumed, calibrated; " + (
        "same model" if again.identity == straight.identity else f"{off:.2g} apart"
    )


def copied(net: nn.Module) -> dict[str, Tensor]:
    """The tensors as they are now."""
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


MIXED: dict[str, Any] = {"cutout": 8, "mixup": 0.2, "lighting": 0.1, "label_smoothing": 0.1}
PATHS: dict[str, Trial] = {
    "step, fp32": steps(),
    "step, bf16": steps(precision="bf16"),
    "step, fp16 with scaling": steps(precision="fp16"),
    "step, compiled": steps(compile=True),
    "step, accumulated and clipped": steps(accumulate=2, clip_norm=0.5),
    "step, cutout, mixup and lighting": steps(**MIXED),
    "fine-tuning, frozen backbone": frozen,
    "streamed feed": streamed,
    "memory layout": layout,
    "resumed equals uninterrupted": resumed,
    "whole run, stopped and resumed": whole_run,
}
