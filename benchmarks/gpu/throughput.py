"""Images per second of whole training steps."""

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch
from waiting_paths import with_graph
from world import VARIANT

from offramp.catalog import lookup
from offramp.data.cifar import SOURCES
from offramp.data.source import Split
from offramp.measure.latency import settle
from offramp.train.recipe import Recipe
from offramp.train.trainer import Trainer, build_seeded

Rows = list[dict[str, Any]]
VARIANTS: dict[str, tuple[str, bool, bool]] = {
    "fast-cifar": ("fast-cifar", False, False),
    "fast-cifar, CUDA graph": ("fast-cifar", False, True),
    "paper-cifar": ("paper-cifar", False, False),
    "paper-cifar, CUDA graph": ("paper-cifar", False, True),
    "fast-cifar, compiled": ("fast-cifar", True, False),
    "fast-cifar, compiled, CUDA graph": ("fast-cifar", True, True),
    "paper-cifar, compiled": ("paper-cifar", True, False),
}
"""Recipe, whether compiled, whether replayed; those that take long to start come last."""
BLOCKS, STEPS = 5, 20


def throughput(device: torch.device, tiny: bool, keep: Callable[[Rows], None]) -> Rows:
    """A row for each variant; ``keep`` is told of them as they come.

    Compiled and replayed ones need CUDA; tiny measures the small network in small batches.
    """
    rows: Rows = []
    print(f"\n{'training step':<34} {'images/s':>10}  {'slowest … fastest block':>25}  first step, s")
    for name, (recipe, compiled, replayed) in VARIANTS.items():
        if device.type != "cuda" and (compiled or replayed):
            print(f"{name:<34} needs CUDA")
            continue
        row = {"step": name} | measure(_recipe(recipe, compiled, tiny), device, replayed, 2 if tiny else STEPS)
        rows.append(row)
        keep(rows)
        low, high = min(row["images_per_s"]), max(row["images_per_s"])
        print(f"{name:<34} {row['median']:>10,.0f}  {f'{low:,.0f} … {high:,.0f}':>25}  {row['first_step_s']:.1f}")
    return rows


def measure(recipe: Recipe, device: torch.device, replayed: bool, steps: int) -> dict[str, Any]:
    """Blocks of steps, each waited for, after a warm-up."""
    trainer = _trainer(recipe, device)
    if replayed:
        with_graph(trainer)
    began = time.perf_counter()
    trainer.advance()
    settle(device)
    first = time.perf_counter() - began
    for _ in range(min(5, steps)):
        trainer.advance()
    speeds = []
    for _ in range(BLOCKS):
        settle(device)
        began = time.perf_counter()
        for _ in range(steps):
            trainer.advance()
        settle(device)
        speeds.append(steps * recipe.batch_size / (time.perf_counter() - began))
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {
        "variant": recipe.variant, "batch_size": recipe.batch_size, "precision": recipe.precision, "n_blocks": BLOCKS,
        "steps_per_block": steps, "images_per_s": [round(speed, 1) for speed in speeds],
        "median": round(median(speeds), 1),
        "first_step_s": round(first, 2), "peak_memory_bytes": memory,
    }  # fmt: skip


def _recipe(name: str, compiled: bool, tiny: bool) -> Recipe:
    recipe: Recipe = replace(lookup("recipe", name, "recipes", "RECIPES"), compile=compiled)
    return replace(recipe, variant=VARIANT, batch_size=16) if tiny else recipe


def _trainer(recipe: Recipe, device: torch.device) -> Trainer:
    count = 8 * recipe.batch_size
    draw = np.random.default_rng(0)
    split = Split(draw.integers(0, 256, (count, 32, 32, 3), np.uint8), draw.integers(0, 10, count))
    config = lookup("network", recipe.variant, "nets", "VARIANTS").replace(num_classes=10)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return Trainer(build_seeded(config.build, recipe.seed), recipe, split, SOURCES["cifar10"].preprocessing, device)
