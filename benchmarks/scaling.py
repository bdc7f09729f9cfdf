"""How time grows with batch, exit, image size and threads, and what memory each runtime takes: tables and plots."""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from common import header, interleaved, keep, markdown, spread
from graphs import ENGINES, Run, open_graph
from offramp.engine.graphs import alignment
from offramp.report.tables import Table
from one_image import WAKING
from phases import public_code, staging
from plots import Curves, bar_plot, line_plot
from runtimes import QUICK, RUNTIMES, Opened, config_of, model_folder, random_images, random_net
from two_threads import SETTLE_S, with_threads

NETWORKS = {"CIFAR": "msdnet-cifar-anytime-10", "ImageNet": "msdnet-imagenet-4"}
BATCHES = {"CIFAR": (1, 4, 16, 64, 256), "ImageNet": (1, 4, 16, 64)}
SIZES = {"CIFAR": (32, 64, 96, 128), "ImageNet": (96, 160, 224, 288)}
MEMORY_BATCHES = (1, 64)
ROUNDS, PUBLIC = 10, "public code"


class Scaling:
    """Measures one network.

    Args:
        name: CIFAR or ImageNet.
        names: of runtimes.
        rounds: of each measurement; fewer for large batches.
    """

    def __init__(self, name: str, names: Sequence[str], rounds: int) -> None:
        self.name, self.names, self.rounds = name, names, rounds
        self.config = config_of(NETWORKS[name])
        self.public = public_code(self.config)
        self.opened = Opened(self.config, names, ["fp32"])
        self.image = random_images(self.config, 1)

    @property
    def last(self) -> int:
        """The last exit."""
        return self.config.exits - 1

    def over_batch(self) -> Curves:
        """Milliseconds per image to the last exit."""
        found = Curves("batch size", "ms per image", logarithmic=True)
        for size in BATCHES[self.name]:
            images = random_images(self.config, size)
            runs = {PUBLIC: partial(self.public, images)} | {
                name: staging(runtime, images, self.last) for (name, _), runtime in self.opened.runtimes.items()
            }
            found.add(size, time_all(runs, min(self.rounds, max(3, self.rounds // size))), size)
        return found

    def over_exit(self) -> Curves:
        """Milliseconds of one image to each exit, staged and direct."""
        runs: dict[tuple[str, int], Run] = {}
        for k in range(self.config.exits):
            runs[PUBLIC, k] = partial(self.public.up_to, k, self.image)
            for (name, _), runtime in self.opened.runtimes.items():
                runs[name, k] = staging(runtime, self.image, k)
                runs[f"{name}, direct", k] = partial(runtime.direct, k, self.image)
        times = time_all({f"{name} {k}": run for (name, k), run in runs.items()}, self.rounds)
        found = Curves("exit", "ms")
        for k in range(self.config.exits):
            found.add(k, {name: times[f"{name} {k}"] for name, there in runs if there == k})
        return found

    def over_size(self) -> Curves:
        """Milliseconds of one image to the last exit; static engines run the staged network in one piece."""
        found = Curves("side of the image, pixels", "ms")
        net = random_net(self.config)
        fused = net.fused(align=alignment("fp32"), merge=False)
        for side in SIZES[self.name]:
            image = random_images(self.config.replace(image_size=side), 1)
            runs: dict[str, Run] = {PUBLIC: partial(self.public, image)}
            if ("eager", "fp32") in self.opened.runtimes:
                runs["eager"] = staging(self.opened.runtimes["eager", "fp32"], image, self.last)
            runs |= {f"{engine}, one piece": open_graph(engine, fused, image) for engine in ENGINES}
            found.add(side, time_all(runs, self.rounds))
        return found

    def over_threads(self) -> Curves:
        """Milliseconds of one image to the last exit, wall time. Call last: pools of threads stay."""
        found = Curves("threads", "ms, wall time")
        twice = Opened(self.config, self.names, ["fp32"], threads=2)
        runs: dict[tuple[str, int], Run] = {}
        for threads, opened in ((1, self.opened), (2, twice)):
            runs[PUBLIC, threads] = with_threads(threads, partial(self.public, self.image))
            for (name, _), runtime in opened.runtimes.items():
                runs[name, threads] = with_threads(threads, staging(runtime, self.image, self.last))
        torch.set_num_threads(2)
        times = time_all(
            {f"{name} {threads}": run for (name, threads), run in runs.items()}, self.rounds, WAKING, SETTLE_S
        )
        torch.set_num_threads(1)
        for threads in (1, 2):
            found.add(threads, {name: times[f"{name} {threads}"] for name, there in runs if there == threads})
        return found

    def memory(self) -> dict[str, dict[str, float]]:
        """Megabytes by runtime and batch, each in a process of its own."""
        script, folder = Path(__file__).with_name("memory.py"), model_folder(self.config)
        found = {}
        for name, _ in self.opened.runtimes:
            for size in MEMORY_BATCHES:
                command = [sys.executable, str(script), str(folder), name, str(size)]
                told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                found[f"{name}, batch {size}"] = json.loads(told)
        return found


@torch.inference_mode()
def time_all(runs: dict[str, Run], rounds: int, waking: int = 0, settle_s: float = 0) -> dict[str, list[float]]:
    """All of them in turn."""
    return interleaved(runs, rounds, warmup=1, waking=waking, settle_s=settle_s)


def curve_table(curves: Curves) -> Table:
    """A row per point, a column per line."""
    rows = tuple(
        (str(x), *(spread(points[x]) if x in points else "" for points in curves.lines.values())) for x in curves.places
    )
    return Table((curves.over, *curves.lines), rows)


def memory_table(found: dict[str, dict[str, float]]) -> Table:
    """A row per runtime and batch."""
    rows = tuple(
        (name, *(f"{mb[key]:.0f}" for key in ("before_mb", "after_mb", "peak_mb"))) for name, mb in found.items()
    )
    return Table(("runtime", "before opening, MB", "after answering, MB", "most, MB"), rows)


def main() -> None:
    """Print and keep the tables, draw the plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(QUICK))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text, raw = header("Scaling, batch 1 and float32 where nothing else is said", options.rounds), {}
    all_ = {name: Scaling(name, options.runtimes, options.rounds) for name in options.networks}
    for title in ("batch", "exit", "size", "threads"):
        panels = {name: getattr(one, f"over_{title}")() for name, one in all_.items()}
        line_plot(f"scaling_{title}", panels)
        for name, curves in panels.items():
            text += f"\n## {name}: {curves.value} by {curves.over}\n\n" + markdown(curve_table(curves))
            raw[f"{name} {title}"] = curves.lines
    memory = {name: one.memory() for name, one in all_.items()}
    bar_plot("scaling_memory", {name: {key: mb["peak_mb"] for key, mb in one.items()} for name, one in memory.items()})
    for name, one in memory.items():
        text += f"\n## {name}: memory, a fresh process for each\n\n" + markdown(memory_table(one))
    keep("scaling", text, raw | {"memory": memory})


if __name__ == "__main__":
    main()
