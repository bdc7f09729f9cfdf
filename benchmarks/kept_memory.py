"""What it gains, and costs, that the commands have the C library keep freed memory.

Processes of both kinds take turns. Each runs the network eagerly, fp32, one thread, all exits, on random images, and reports
its median process CPU time per batch and its peak memory, which includes PyTorch.
"""

import argparse
import json
import subprocess
import sys
import time
from statistics import median

import torch

import offramp
from common import header, keep, markdown, spread
from memory import resident_mb
from offramp.classifier.folder import fast
from offramp.report.tables import Table
from offramp_runtime.memory import keep_memory

NETWORKS = ("msdnet-cifar-anytime-10", "densenet-cifar-bc-100-12", "msdnet-imagenet-4")
BATCHES = (1, 64)
RUNS = {1: 20, 64: 5}
"""Batches that are timed in a process."""
WAYS = ("freed", "kept")


def main() -> None:
    """Measure, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind")
    parser.add_argument("--child", nargs=3, metavar=("NETWORK", "BATCH", "WAY"), help="used by the benchmark itself")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.child:
        name, batch, way = given.child
        print(json.dumps(run(name, int(batch), way)))
        return
    rows, found = [], {}
    for name in NETWORKS:
        for batch in BATCHES:
            seen: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for turn in range(given.rounds):
                for way in WAYS[:: 1 if turn % 2 else -1]:
                    seen[way].append(child(name, batch, way))
            found[f"{name}, {batch}"] = seen
            freed = median(one["ms"] for one in seen["freed"])
            for way, ones in seen.items():
                ms = [one["ms"] for one in ones]
                peak = median(one["peak_mb"] for one in ones)
                rows.append((name, str(batch), way, spread(ms), f"{freed / median(ms):.2f}", f"{peak:.0f}"))
    columns = ("network", "batch", "freed memory is", "ms a batch", "times faster", "peak MB")
    text = header("Keeping freed memory", given.rounds, "processes of each kind")
    text += f"\n{__doc__.split(chr(10), 2)[2].strip()}\n\n"
    keep("kept_memory", text + markdown(Table(columns, tuple(rows))), found)


def child(name: str, batch: int, way: str) -> dict[str, float]:
    """What a process of its own reports."""
    command = [sys.executable, __file__, "--child", name, str(batch), way]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


@torch.inference_mode()
def run(name: str, batch: int, way: str) -> dict[str, float]:
    """Time the network in this process."""
    if way == "kept":
        keep_memory()
    torch.manual_seed(0)
    net = fast(offramp.create(name).eval().fused(eager=True))
    config = net.config
    images = torch.randn(batch, config.image_channels, config.image_size, config.image_size)
    images = images.contiguous(memory_format=torch.channels_last)
    times = []
    for turn in range(2 + RUNS[batch]):
        began = time.process_time()
        net(images)
        if turn >= 2:
            times.append((time.process_time() - began) * 1e3)
    return {"ms": median(times), "peak_mb": resident_mb("VmHWM")}


if __name__ == "__main__":
    main()
