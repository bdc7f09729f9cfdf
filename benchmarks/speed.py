"""Does what exits save in MACs become milliseconds? Every promised figure beside what was measured, and why where missed.

The reference is public code: every cell and exit, eager PyTorch, float32 (reference_msdnet.py). Whatever is compared is timed
in turn in this one process: with one thread its CPU time, with two threads wall time.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence

import torch

from common import keep, markdown
from figures import PRECISIONS, figure_table, reasons
from leaving import leaving
from limits import measure_limits
from missed import explain
from offramp.measure.machine import describe_machine
from offramp_runtime.memory import keep_memory
from one_image import one_image
from phases import Network, Phase
from runtimes import QUICK, RUNTIMES, Opened, config_of
from two_threads import two_threads

NETWORKS = {
    "CIFAR": Network(
        "CIFAR",
        "msdnet-cifar-anytime-10",
        ("resnet-cifar-110", "densenet-cifar-bc-100-12"),
        rounds=50,
        batches={64: 5, 256: 3},
    ),
    "ImageNet": Network("ImageNet", "msdnet-imagenet-4", ("resnet-18", "resnet-50"), rounds=20, batches={64: 3}),
}
BEGAN = time.perf_counter()


def main() -> None:
    """Print and keep the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(QUICK))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--rounds", type=int, default=1000, help="at most so many, for a first look")
    parser.add_argument("--name", default="speed", help="of the files under results/, where several machines are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()  # as the commands do; public code has it too
    load, limits = os.getloadavg()[0], measure_limits()
    networks = [NETWORKS[name].at_most(options.rounds) for name in options.networks]
    opened = [Opened(config_of(one.variant), options.runtimes, options.precisions) for one in networks]
    phases: list[Phase] = []
    why: list[str] = []
    for network, runtimes in zip(networks, opened, strict=True):
        for phase in (*one_image(network, runtimes, limits), *leaving(network, runtimes, limits)):
            phases.append(phase)
            why += explain(phase.figures, limits)
        say(f"{network.name}, one thread: done")
    names = [name for name in options.runtimes if name in QUICK]
    for network, runtimes in zip(networks, opened, strict=True):  # last: the threads of pools made here stay
        phases.append(two_threads(network, runtimes, names))
        why += explain(phases[-1].figures, limits)
        say(f"{network.name}, two threads: done")
    about = f"load average {load:.1f} before, {os.getloadavg()[0]:.1f} after. One thread reaches {limits}. "
    about += f"The fastest of {', '.join(options.runtimes)} stands for each figure."
    keep(options.name, page(about, phases, why), {phase.title: phase.times for phase in phases})


def page(about: str, phases: Sequence[Phase], why: Sequence[str]) -> str:
    """All figures, what they were taken from, and what stands in the way of missed ones."""
    facts = ", ".join(f"{name} {value}" for name, value in describe_machine(torch.device("cpu")).items())
    figures = [one.figure for phase in phases for one in phase.figures]
    parts = [
        f"# Speed\n\n{facts}; {about}",
        "Milliseconds and ratios are medians over rounds [p10 … p90]; a ratio is taken within its round. One thread: process",
        "CPU time. Two threads: wall time.\n",
        markdown(figure_table(figures)) + reasons(figures),
        *(phase.section for phase in phases),
        "## Missed figures\n",
        *(why or ["None.\n"]),
    ]
    return "\n".join(parts)


def say(what: str) -> None:
    """Progress, beside the table."""
    print(f"{time.perf_counter() - BEGAN:5.0f} s  {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
