"""GPU paths of answering and measuring."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from world import Trial, World, colours, expect

from offramp.classifier import Classifier
from offramp.measure.latency import settle
from offramp_runtime.predictions import Predictions

IMAGES = colours(64, seed=2).images
CPU = torch.device("cpu")
TOLERANCE = 0.05
"""Of logits, against the CPU's; convolutions may run in TF32."""


def whole(world: World) -> str:
    """All images at the last exit."""
    return _compared(world, lambda classifier: classifier.predict(IMAGES))


def direct(world: World) -> str:
    """Straight to each exit."""
    return "; ".join(_compared(world, partial(Classifier.predict, images=IMAGES, exit=k)) for k in (0, 1))


def budgeted(world: World) -> str:
    """Each image leaves where its confidence suffices, and has the answer of that exit."""
    classifier = world.classifier()
    costs = classifier.costs.at_exit
    found = classifier.predict(IMAGES, budget=sum(costs) / 2)
    by_exit = [classifier.predict(IMAGES, exit=k).logits for k in range(classifier.net.num_exits)]
    wanted = np.stack(by_exit)[found.exit_index, np.arange(len(IMAGES))]
    off = float(np.abs(found.logits - wanted).max())
    expect(off < TOLERANCE, f"logits differ from those of their exits by {off:.2g}")
    left = np.bincount(found.exit_index, minlength=len(costs)).tolist()
    expect(min(left) > 0, f"images left at each exit: {left}; wanted some at both")
    return f"left at each exit: {left}"


def budgeted_in_ms(world: World) -> str:
    """A budget in measured milliseconds."""
    classifier = world.classifier()
    costs = classifier.measuring.times(len(IMAGES)).costs.at_exit
    found = classifier.predict(IMAGES, budget=f"{costs[-1]:.6f}ms")
    each = ", ".join(f"{ms:.4f}" for ms in costs)
    return f"{each} ms an image up to each exit; mean exit {found.exit_index.mean():.2f}"


def deadline(world: World) -> str:
    """One image; a long deadline reaches the last exit, and the answer comes in time."""
    classifier = world.classifier()
    classifier.measuring.times(1)
    began = time.perf_counter()
    found = classifier.predict(IMAGES[:1], deadline_ms=5000)
    took = (time.perf_counter() - began) * 1e3
    expect(found.exit_index[0] == classifier.net.num_exits - 1, f"answered at exit {found.exit_index[0]}")
    expect(took < 5000, f"it took {took:.0f} ms")
    return f"{took:.2f} ms to the last exit"


def stream(world: World) -> str:
    """An answer at every exit, the last of them that of a whole pass."""
    classifier = world.classifier()
    found = list(classifier.stream(IMAGES))
    expect([int(one.exit_index[0]) for one in found] == list(range(classifier.net.num_exits)), "exits were left out")
    off = float(np.abs(found[-1].logits - classifier.predict(IMAGES).logits).max())
    expect(off < TOLERANCE, f"logits differ by {off:.2g}")
    return f"{len(found)} answers"


def latency(world: World) -> str:
    """Measured stage times hold what the GPU really does: they are not shorter than its own clock says."""
    classifier = world.classifier()
    batch = 2048 if world.device.type == "cuda" else 64
    measured = classifier.measuring.times(batch).costs.at_exit[-1] * batch
    note = f"{measured:.2f} ms for {batch} images"
    if world.device.type != "cuda":
        return note
    own = _on_its_own_clock(classifier, np.repeat(IMAGES, batch // len(IMAGES), axis=0))
    expect(measured > 0.7 * own, f"stages are said to take {measured:.2f} ms, the GPU's clock says {own:.2f} ms")
    return f"{note}, {own:.2f} ms by the GPU's clock from normalised images on"


@torch.inference_mode()
def _on_its_own_clock(classifier: Classifier, pixels: NDArray[np.uint8]) -> float:
    """Milliseconds of a pass, images on the GPU already."""
    preprocessing = classifier.preprocessing
    assert preprocessing is not None  # classifiers of this world have one
    images = preprocessing.normalize(torch.from_numpy(pixels).to(classifier.device))
    classifier.net(images)
    settle(classifier.device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    classifier.net(images)
    end.record()
    settle(classifier.device)
    return float(begin.elapsed_time(end))


def _compared(world: World, run: Callable[[Classifier], Predictions]) -> str:
    """The largest difference from the CPU's logits."""
    off = float(np.abs(run(world.classifier()).logits - run(world.classifier(CPU)).logits).max())
    expect(off < TOLERANCE, f"logits differ from the CPU's by {off:.2g} (allowed {TOLERANCE})")
    return f"logits within {off:.2g} of the CPU's"


PATHS: dict[str, Trial] = {
    "answers, last exit": whole,
    "answers, direct to an exit": direct,
    "answers, budget": budgeted,
    "answers, budget in ms": budgeted_in_ms,
    "answers, deadline": deadline,
    "answers, stream": stream,
    "latency of stages": latency,
}
