"""The CondenseNet paper's comparison on an ARM processor: its figures as published, and what this machine measures.

Published (Huang et al., arXiv:1711.09224, and the README of the authors' code): seconds of one 224x224 image on an ARM
processor, and top-1 error on ImageNet. Ours are process CPU time on one thread in
ONNX Runtime, random weights, CondenseNets as converted with grouped convolutions. Run on an aarch64 machine it is the same
comparison on newer hardware; elsewhere it refuses unless told otherwise (``--any-machine``), since then only the order of the
networks can be compared.
"""

import argparse
import platform
import tempfile
from pathlib import Path
from statistics import median

import torch

import offramp
from common import header, interleaved, keep, markdown, spread
from offramp.classifier import Classifier
from offramp.measure.forms import forms_of
from offramp.measure.macs import staged_macs
from offramp.nets.condensenet import CondenseNet, convert
from offramp.nets.pruning import condense
from offramp.report.tables import Table

PUBLISHED = {
    "vgg-16": ("15,300", 28.5, 354.0), "resnet-18": ("1,818", 30.2, 8.14), "mobilenet": ("569", 29.4, 1.96),
    "condensenet-imagenet-74-4": ("529", 26.2, 1.89), "condensenet-imagenet-74-8": ("274", 29.0, 0.99),
}  # fmt: skip
"""Million operations, top-1 error in percent, seconds."""


def main() -> None:
    """Measure, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--any-machine", action="store_true", help="also where the processor is no ARM")
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    if platform.machine() not in ("aarch64", "arm64") and not given.any_machine:
        parser.error(
            f"this is a {platform.machine()} machine; run it on an ARM one, or pass --any-machine to compare the order only"
        )
    torch.set_num_threads(1)
    image, ways, macs = torch.randn(1, 3, 224, 224), {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in PUBLISHED:
            net = offramp.create(name).eval()
            if isinstance(net, CondenseNet):
                condense(net, 1.0)
                net = convert(net, forms_of(net.config, "grouped")).eval()
            macs[name] = staged_macs(net).at_exit[-1]
            Classifier(net, tuple(map(str, range(1000))), None).save(Path(folder) / name)
            runtime = offramp.load(Path(folder) / name, runtime="onnx", threads=1).running.runtime
            ways[name] = lambda runtime=runtime: runtime.direct(0, image)
        times = interleaved(ways, given.rounds, waking=1)
    slowest, theirs = median(times["vgg-16"]), PUBLISHED["vgg-16"][2]
    rows = [
        (name, operations, f"{macs[name] / 1e6:,.0f}", f"{error:.1f}", f"{seconds:.2f}", f"{theirs / seconds:.0f}",
         spread(times[name]), f"{slowest / median(times[name]):.1f}")
        for name, (operations, error, seconds) in PUBLISHED.items()
    ]  # fmt: skip
    columns = (
        "network", "published: M operations", "MMAC", "published: top-1 error, %", "published: s", "published: times VGG-16",
        "ms here", "times VGG-16 here",
    )  # fmt: skip
    title = header("CondenseNet beside networks for small machines", given.rounds)
    text = f"{title}\n{__doc__.split(chr(10), 2)[2].strip()}\n\n"
    keep(f"arm_{platform.machine()}", text + markdown(Table(columns, tuple(rows))), times)


if __name__ == "__main__":
    main()
