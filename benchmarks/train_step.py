"""How long a training step takes: what the package does against the plain eager fp32 NCHW step of public code.

Memory settings belong to a whole process, so each variant runs in one of its own; the parent lets them do one step each in
turn, and nobody else runs meanwhile. Variants named with --variants are run, all by default.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

import offramp
from common import header, keep, markdown, spread
from offramp.data.cifar import SOURCES
from offramp.data.source import Split
from offramp.report.tables import Table
from offramp.train.recipe import Recipe
from offramp.train.trainer import Trainer, build_seeded
from offramp_runtime.memory import keep_memory

VARIANT, BATCH = "msdnet-cifar-batch-5", 64
PLAIN = "plain eager fp32 NCHW"
CONVOLUTIONS = (
    "aten::mkldnn_convolution", "aten::convolution_backward", "aten::_slow_conv2d_forward", "aten::_slow_conv2d_backward",
)  # fmt: skip
COLUMNS = ("step", "ms", "images/s", "times as fast", "% convolutions", "times as fast if all else were free")
RECIPE = Recipe(variant=VARIANT, source="cifar10", epochs=1000, batch_size=BATCH, learning_rate=0.01, crop_pad=4)
VARIANTS: dict[str, tuple[bool, dict[str, object]]] = {
    PLAIN: (False, {}),
    "channels last": (False, {}),
    "channels last, kept memory": (True, {}),
    "channels last, kept memory, compiled": (True, {"compile": True}),
    "channels last, kept memory, bf16": (True, {"precision": "bf16"}),
    "channels last, kept memory, bf16, compiled": (True, {"precision": "bf16", "compile": True}),
}
"""Name: whether memory is kept, and what differs from the recipe above."""


def main() -> None:
    """Start a child for each variant, let them take turns, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--name", default="train_step", help="of the result files")
    parser.add_argument("--child", help="used by the benchmark itself")
    options = parser.parse_args()
    if options.child is not None:
        serve(options.child)
        return
    torch.set_num_threads(options.threads)
    names = [PLAIN, *(name for name in options.variants if name != PLAIN)]
    times, convolutions = take_turns(names, options.rounds, options.threads)
    plain = median(times[PLAIN])
    rows = tuple(
        (
            name,
            spread(values),
            f"{1e3 * BATCH / median(values):,.0f}",
            f"{plain / median(values):.2f}",
            f"{100 * convolutions[name]:.0f}",
            f"{plain / median(values) / convolutions[name]:.2f}",
        )
        for name, values in times.items()
    )
    text = header(f"Training step of {VARIANT}, batch {BATCH}", options.rounds) + "\n"
    text += markdown(Table(COLUMNS, rows))
    text += (
        "\nThe plain step is the public code's: every cell of every layer, the sum of the losses, SGD tensor by tensor. The "
        "others are `Trainer.advance`, which also draws the batch, augments it and looks after the schedule. The last two "
        "columns are from PyTorch's profiler: how much of the step are oneDNN's convolutions, forward and backward, and how "
        "many times as fast as the plain one it would be if all else took no time.\n"
    )
    keep(options.name, text, times)


def take_turns(names: list[str], rounds: int, threads: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Milliseconds of each variant's steps, and the share of convolutions in them."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    children = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--child", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment,
        )
        for name in names
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name, child in children.items():
            took = ask(child, "step")
            sys.stderr.write(f"round {turn} {name}: {took:.0f} ms\n")
            if turn:  # the first step compiles
                times[name].append(took)
    shares = {name: ask(child, "profile") for name, child in children.items()}
    for child in children.values():
        child.communicate()
    return times, shares


def ask(child: "subprocess.Popen[str]", what: str) -> float:
    """A child's answer."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(what + "\n")
    child.stdin.flush()
    return float(json.loads(child.stdout.readline()))


def serve(name: str) -> None:
    """One step for each line that comes in; its milliseconds, or its share of convolutions, for answer."""
    kept, changes = VARIANTS[name]
    if kept:
        keep_memory()
    step = plain_step() if name == PLAIN else our_step(replace(RECIPE, **changes))  # type: ignore[arg-type]
    for _ in range(2 if not changes.get("compile") else 1):
        step()
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for line in sys.stdin:
        if line == "profile\n":
            print(json.dumps(convolution_share(step)), flush=True)
            continue
        began = clock()
        step()
        print(json.dumps((clock() - began) * 1e3), flush=True)


def convolution_share(step: Callable[[], object]) -> float:
    """How much of a step's time on the CPU goes into convolutions."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    events = seen.key_averages()
    inside = sum(event.self_cpu_time_total for event in events if event.key in CONVOLUTIONS)
    return float(inside / sum(event.self_cpu_time_total for event in events))


def plain_step() -> Callable[[], object]:
    """The public code's step."""
    net = offramp.create(VARIANT).config.build_plain().train()
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9, weight_decay=1e-4, foreach=False)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))

    def step() -> float:
        loss = torch.stack([F.cross_entropy(logits, labels) for logits in net(images)]).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()

    return step


def our_step(recipe: Recipe) -> Callable[[], object]:
    """A trainer's step on random images."""
    count = 64 * BATCH
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=draw).numpy()
    labels = torch.randint(0, 10, (count,), generator=draw).numpy()
    net = build_seeded(lambda: offramp.create(VARIANT), recipe.seed)
    preprocessing = SOURCES["cifar10"].preprocessing
    trainer = Trainer(net, recipe, Split(images, labels), preprocessing, torch.device("cpu"))
    return lambda: trainer.advance().tolist()


if __name__ == "__main__":
    main()
