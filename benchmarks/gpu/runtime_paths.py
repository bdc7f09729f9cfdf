"""GPU paths of runtimes: lower precision, compiled code with CUDA graphs, waits under a budget, joules."""

import warnings
from functools import partial

import numpy as np
import torch
from answer_paths import IMAGES
from world import Trial, World, expect, need_cuda, source

from offramp.classifier import Classifier
from offramp.engine.budgeted import run_budgeted

CPU = torch.device("cpu")
FAR = {"fp32": 0.02, "bf16": 0.06}
"""Largest difference of logits from the CPU's in float32, as a share of the largest logit; fp32 may be TF32."""


def runtime(world: World, name: str, precision: str) -> str:
    """Every exit and a budget, against the CPU's network, for one image and for batches that shrink."""
    if name == "compiled":
        need_cuda(world)  # the CPU's form is another, takes minutes, and has tests of its own
    wanted, classifier = world.classifier(CPU), _opened(world, name, precision)
    last = classifier.net.num_exits - 1
    off = max(_off(wanted, classifier, k) for k in range(last + 1))
    expect(off < FAR[precision], f"logits are off by {off:.2g} of the largest (allowed {FAR[precision]})")
    classifier.calibrate(source())
    costs = classifier.costs.at_exit
    for count in (1, 3, len(IMAGES)):
        found = classifier.predict(IMAGES[:count], budget=sum(costs) / 2)
        by_exit = [classifier.predict(IMAGES[:count], exit=k).logits for k in range(last + 1)]
        there = np.stack(by_exit)[found.exit_index, np.arange(count)]
        apart = float(np.abs(found.logits - there).max() / np.abs(there).max())
        expect(apart < FAR[precision], f"{count} images: logits differ from those of their exits by {apart:.2g}")
    return f"within {off:.2g} of the CPU's in float32"


def waits(world: World) -> str:
    """Under a budget the CPU waits for the GPU once per exit, and once for the answers."""
    need_cuda(world)
    classifier = world.classifier()
    plan = classifier.plan(sum(classifier.costs.at_exit) / 2)
    preprocessing = classifier.preprocessing
    assert preprocessing is not None  # classifiers of this world have one
    images = preprocessing.normalize(torch.from_numpy(IMAGES).to(world.device))
    run_budgeted(classifier.runtime, images, plan.policy)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run_budgeted(classifier.runtime, images, plan.policy)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    count = sum("synchroniz" in str(one.message) for one in caught)
    exits = classifier.net.num_exits
    expect(0 < count <= exits, f"{count} waits for {exits} exits")
    return f"{count} waits for {exits} exits"


def joules(world: World) -> str:
    """What the GPU's counter says of the stages."""
    need_cuda(world)
    table = world.classifier().measuring.joules(8)
    each = [table.stage(k, 8) / 8 for k in range(table.num_exits)]
    expect(all(0 < one < 10 for one in each), f"{each} J an image")
    return f"{sum(each):.2g} J an image in batches of 8"


def _opened(world: World, name: str, precision: str) -> Classifier:
    return world.classifier().use(name, precision=precision)


def _off(wanted: Classifier, classifier: Classifier, k: int) -> float:
    there, here = (one.predict(IMAGES, exit=k).logits for one in (wanted, classifier))
    return float(np.abs(here - there).max() / np.abs(there).max())


PATHS: dict[str, Trial] = {
    **{
        f"runtime {name}, {precision}": partial(runtime, name=name, precision=precision)
        for name in ("eager", "compiled")
        for precision in ("fp32", "bf16")
    },
    "answers, waits under a budget": waits,
    "joules from the GPU's counter": joules,
}
