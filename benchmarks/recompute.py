"""What recomputing saves in training: bytes kept for backward, peak memory of a process, and what it costs in time.

Kept are the activations that backward will read, each storage once, without the weights. The peak is the resident memory of
a fresh process that does three steps. Times are interleaved in one process.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from statistics import median
from typing import get_args

import torch
from torch import Tensor, nn

import offramp
from common import header, interleaved, keep, markdown, spread
from memory import resident_mb
from offramp.catalog import entries
from offramp.measure.memory import kept_bytes
from offramp.nets.base import NetConfig
from offramp.nets.densenet import DenseNetConfig
from offramp.nets.recompute import Recompute, set_recompute
from offramp.report.tables import Table
from plots import Curves, line_plot

BATCH, DEPTH_BATCH = 64, 16
NETWORKS = ("densenet-cifar-bc-100-12", "condensenet-cifar-86", "msdnet-cifar-batch-5")
WIDE = ("densenet-cifar-bc-40-36", "densenet-cifar-bc-40-48", "densenet-cifar-bc-40-60")
"""Of which only the bytes kept are counted, on a quarter of the batch: they take gigabytes."""
DEPTHS = (40, 70, 100, 130, 160, 190)
MODES: tuple[Recompute, ...] = get_args(Recompute)
SEEDS = (
    ("0", "optMemory 0: nothing shared", "5453 MB, 0.153 s", "none"),
    ("1", "optMemory 1: graph optimiser", "3746 MB, 0.153 s", "none; PyTorch's autograd frees what backward has read"),
    ("2", "optMemory 2: gradients share storage", "2969 MB, 0.152 s", "none; the same"),
    ("3", "optMemory 3: one buffer for concatenations", "2188 MB, 0.155 s", "layers"),
    ("4", "optMemory 4: and one for their norms", "1655 MB, 0.175 s", "layers"),
    ("-", "efficient_densenet_pytorch, naive", "2863 MB, 0.165 s", "none"),
    ("-", "efficient_densenet_pytorch, efficient", "1605 MB, 0.207 s", "layers"),
    (
        "-",
        "efficient_densenet_pytorch, several GPUs",
        "985 MB",
        "layers, with DistributedDataParallel around the network",
    ),
)
"""Level, what it is, published memory and seconds per batch (DenseNet-BC-100-12, batch 64; TITAN X), and what it became."""


def main() -> None:
    """Measure, print and keep the tables and the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", nargs=2, metavar=("NETWORK", "MODE"), help="used by the benchmark itself")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.child:
        print(json.dumps(peak(*given.child)))
        return
    found = {name: {mode: measure(name, mode) for mode in MODES} for name in NETWORKS}
    times = {name: timed(name, given.rounds) for name in NETWORKS}
    text = (
        header(f"Recomputing in training, batch {BATCH}", given.rounds)
        + f"\n{__doc__.split(chr(10), 2)[2].strip()}\n\n"
    )
    text += markdown(table(found, times))
    text += "\n## Wide DenseNets\n\n" + markdown(wide())
    text += f"\n## Kept for backward by depth (DenseNet-BC, k = 12, batch {DEPTH_BATCH})\n\n"
    depths = {mode: [kept_at(depth, mode) for depth in DEPTHS] for mode in MODES}
    text += markdown(
        Table(
            ("depth", *(f"{mode}, MB" for mode in MODES)),
            tuple((str(d), *(f"{depths[mode][n] / 1e6:.1f}" for mode in MODES)) for n, d in enumerate(DEPTHS)),
        )
    )
    text += "\n## What the published programs' levels became\n\n"
    text += markdown(Table(("level", "published", "memory and time", "here: recompute ="), SEEDS))
    keep(
        "recompute",
        text,
        {"kept and peak": found, "ms": times, "depths": dict(zip(MODES, depths.values(), strict=True))},
    )
    curves = Curves("depth", "MB kept for backward")
    for number, depth in enumerate(DEPTHS):
        curves.add(depth, {mode: [depths[mode][number] / 1e6] for mode in MODES}, 1)
    line_plot("recompute", {f"Training DenseNet-BC, k = 12, batch {DEPTH_BATCH}": curves})


def table(found: Mapping[str, Mapping[Recompute, dict[str, float]]], times: dict[str, dict[str, list[float]]]) -> Table:
    """One row for each network and choice."""
    rows = []
    for name, modes in found.items():
        plain = modes["none"]
        for mode, one in modes.items():
            slow = median(times[name][mode]) / median(times[name]["none"])
            rows.append(
                (
                    name, mode, f"{one['kept'] / 1e6:,.0f}", f"{one['kept'] / plain['kept']:.2f}",
                    f"{one['peak'] / 1e6:,.0f}", f"{one['peak'] / plain['peak']:.2f}", spread(times[name][mode]),
                    f"{slow:.2f}",
                )
            )  # fmt: skip
    return Table(("network", "recompute", "kept, MB", "ratio", "peak, MB", "ratio", "step, ms", "ratio"), tuple(rows))


def wide() -> Table:
    """Beside what is published of them."""
    published = ("1.5 M, 4008 MB, 0.130 s", "2.7 M, 5245 MB, 0.165 s", "4.3 M, 6508 MB, 0.223 s")
    rows = []
    for name, theirs in zip(WIDE, published, strict=True):
        kept = {mode: 4 * kept_bytes(build(name, mode), images_of(name, BATCH // 4)) for mode in MODES}
        parameters = sum(weight.numel() for weight in build(name, "none").parameters())
        shown = (f"{kept[mode] / 1e6:,.0f}" for mode in MODES)
        rows.append((name, theirs, f"{parameters / 1e6:.2f}", *shown))
    columns = (
        "network",
        f"published (TITAN X, batch {BATCH})",
        "parameters, M",
        *(f"{mode}, MB kept" for mode in MODES),
    )
    return Table(columns, tuple(rows))


def build(name: str, mode: str) -> nn.Module:
    """In training mode."""
    torch.manual_seed(0)
    net = offramp.create(name).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    set_recompute(net, mode)
    return net.train()  # type: ignore[no-any-return]


def images_of(name: str, count: int) -> Tensor:
    """Random ones."""
    config: NetConfig = entries("nets", "VARIANTS")[name]
    shape = (count, config.image_channels, config.image_size, config.image_size)
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def step(net: nn.Module, images: Tensor) -> None:
    """Forward and backward."""
    net.zero_grad(set_to_none=True)
    torch.autograd.backward(net(images).square().mean())


def measure(name: str, mode: str) -> dict[str, float]:
    """Bytes kept, and the peak of a process of its own."""
    command = [sys.executable, __file__, "--child", name, mode]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"kept": kept_bytes(build(name, mode), images_of(name, BATCH)), "peak": json.loads(done.stdout)}


def peak(name: str, mode: str) -> float:
    """Largest resident bytes of this process after three steps."""
    net, images = build(name, mode), images_of(name, BATCH)
    for _ in range(3):
        step(net, images)
    return 1e6 * resident_mb("VmHWM")


def timed(name: str, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of a step."""
    images = images_of(name, BATCH)
    return interleaved({mode: partial(step, build(name, mode), images) for mode in MODES}, rounds, warmup=1)


def kept_at(depth: int, mode: str) -> float:
    """Bytes kept by a DenseNet-BC of that many layers."""
    layers = ((depth - 4) // 6,) * 3
    net = DenseNetConfig(layers=layers, growth_rates=(12,) * 3, channels=24).build().train()
    set_recompute(net, mode)
    return kept_bytes(net, torch.randn(DEPTH_BATCH, 3, 32, 32))


if __name__ == "__main__":
    main()
