"""Every network of the catalog: parameters, multiply-adds at each exit, and milliseconds of one image.

Milliseconds are process CPU time of the inference form run eagerly on one thread, random weights, straight to the last exit;
one network after the other, median [p10 … p90] of n runs. MACs are those of stages run one after the other.
"""

import argparse
import statistics
import time

import torch

import offramp
from common import keep, markdown, spread
from offramp.catalog import entries
from offramp.engine.eager import EagerRuntime
from offramp.measure.machine import describe_machine
from offramp.measure.macs import staged_macs
from offramp.nets.base import NetConfig
from offramp.report.tables import Table

SECONDS, MOST, LEAST = 2.0, 30, 3


def main() -> None:
    """Measure all, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="*", default=list(entries("nets", "VARIANTS")), help="networks by name")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows, found = [], {}
    for name in given.variants:
        config: NetConfig = entries("nets", "VARIANTS")[name]
        net = offramp.create(name).eval()
        parameters, macs = sum(weight.numel() for weight in net.parameters()), staged_macs(net).at_exit
        ms = milliseconds(EagerRuntime(net, "fp32", torch.device("cpu")), config)
        found[name] = {"parameters": parameters, "macs": macs, "ms": ms}
        rows.append((name, str(net.num_exits), f"{parameters / 1e6:.2f}", _macs(macs), spread(ms), str(len(ms))))
        print(*rows[-1], flush=True)
    columns = ("network", "exits", "parameters, M", "MMAC at the exits", "ms, one image", "n")
    facts = ", ".join(f"{name} {value}" for name, value in describe_machine(torch.device("cpu")).items())
    text = f"# The networks of the catalog\n\n{facts}\n\n{__doc__.split(chr(10), 2)[2].strip()}\n\n"
    keep("networks", text + markdown(Table(columns, tuple(rows))), found)


@torch.inference_mode()
def milliseconds(runtime: EagerRuntime, config: NetConfig) -> list[float]:
    """Of one image to the last exit."""
    image = torch.randn(1, config.image_channels, config.image_size, config.image_size)
    image = image.contiguous(memory_format=torch.channels_last)
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < LEAST + 1 or (len(found) < MOST and time.perf_counter() - began < SECONDS):
        lap = time.process_time()
        runtime.direct(runtime.num_exits - 1, image)
        found.append((time.process_time() - lap) * 1e3)
    assert statistics.median(found) > 0
    return found[1:]


def _macs(at_exit: tuple[float, ...]) -> str:
    shown = [f"{macs / 1e6:,.1f}" for macs in at_exit]
    return " ".join(shown) if len(shown) <= 3 else f"{shown[0]} {shown[1]} … {shown[-1]}"


if __name__ == "__main__":
    main()
