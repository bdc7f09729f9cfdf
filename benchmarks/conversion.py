"""What conversion of a CondenseNet gains in milliseconds, over the form public code converts to.

``plain`` is that form as public code runs it: gathered inputs, grouped convolutions and shuffles, norms by themselves, eager,
channels first. ``masked`` is what was trained, run eagerly with norms folded. Of each runtime stand the forms that ``offramp
convert`` can choose from, everywhere the same, and for ``eager`` also its choice layer by layer. Weights are random, and what
stays of them too; one image, one thread.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import cast, get_args

import torch
from torch import Tensor

import offramp
from common import header, interleaved, keep, markdown, spread
from offramp.classifier import Classifier
from offramp.measure.forms import fastest_forms, forms_of
from offramp.nets.condensenet import CondenseNet, Form, convert
from offramp.nets.pruning import condense
from offramp.report.tables import Table

VARIANTS = ("condensenet-cifar-86", "condensenet-imagenet-74-4", "condensenet-imagenet-74-8")


def main() -> None:
    """Measure, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name in given.variants:
            ways, chosen = prepared(name, Path(folder) / name)
            times = found[name] = interleaved(ways, given.rounds, waking=2)
            plain = median(times["plain"])
            rows += [(name, way, spread(ms), f"{plain / median(ms):.2f}") for way, ms in times.items()]
            rows.append((name, f"(chosen: {chosen})", "", ""))
    columns = ("network", "way", "ms, one image", "times plain")
    text = f"{header('Conversion of CondenseNets', given.rounds)}\n{__doc__.split(chr(10), 2)[2].strip()}\n\n"
    keep("conversion", text + markdown(Table(columns, tuple(rows))), found)


def prepared(name: str, folder: Path) -> tuple[dict[str, Callable[[], object]], str]:
    """The ways to run a network, and which forms were chosen for it."""
    torch.manual_seed(0)
    net = offramp.create(name).eval()
    assert isinstance(net, CondenseNet)
    config = net.config
    image = torch.randn(1, config.image_channels, config.image_size, config.image_size)
    condense(net, 1.0)
    chosen = fastest_forms(net)
    nets = {form: convert(net, forms_of(config, form)).eval() for form in cast(tuple[Form, ...], get_args(Form))}
    by_way: dict[str, CondenseNet] = {"masked": net} | {str(form): one for form, one in nets.items()}
    by_way |= {"chosen": convert(net, chosen).eval()}
    ways: dict[str, Callable[[], object]] = {"plain": torch.inference_mode()(lambda: nets["grouped"].direct(0, image))}
    for way, one in by_way.items():
        Classifier(one, tuple(map(str, range(config.num_classes))), None).save(folder / way)
        for runtime in ("eager",) if way == "masked" else ("eager", "onnx", "openvino"):
            ways[f"{runtime}, {way}"] = runner(folder / way, runtime, image)
    return ways, ", ".join(f"{count} {form}" for form, count in Counter(chosen).items())


def runner(folder: Path, runtime: str, image: Tensor) -> Callable[[], object]:
    """One image straight to the exit."""
    opened = offramp.load(folder, runtime=runtime, threads=1).running.runtime
    return lambda: opened.direct(0, image)


if __name__ == "__main__":
    main()
