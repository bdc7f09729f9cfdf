"""What conversion of a CondenseNet gains in milliseconds, over the form public code converts to.

``plain`` is that form as public code runs it: gathered inputs, grouped convolutions and shuffles, norms by themselves, eager,
channels first. ``masked`` is what was trained, run eagerly with norms folded. Of each runtime stand the forms that ``offramp
convert`` can choose from, everywhere the same, and for ``eager`` also its choice layer by layer. Weights are random, and what
stays of them too; one image, one thread.

Asked for are 2 times plain when run eagerly, and 2.5 times in the best runtime; where that is missed stands what takes the
time. Operators are timed one by one, those of engines in a session of their own, whose sum is somewhat more than the whole.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import cast, get_args

import torch
from torch import Tensor, nn

import offramp
from common import header, interleaved, keep, markdown, spread
from graphs import ENGINES
from limits import Limits, measure_limits
from offramp.classifier import Classifier
from offramp.engine.graphs import write_graphs
from offramp.measure.forms import fastest_forms, forms_of
from offramp.measure.macs import direct_macs
from offramp.nets.condensenet import CondenseNet, Form, convert
from offramp.nets.pruning import condense
from offramp.report.tables import Table
from operators import costliest, operator_table

VARIANTS = ("condensenet-cifar-86", "condensenet-imagenet-74-4", "condensenet-imagenet-74-8")
RUNTIMES = ("eager", "onnx", "openvino")
EAGER, BEST = 2.0, 2.5
"""Times plain that are asked for."""


@dataclass(frozen=True)
class Way:
    """One form in one runtime."""

    runtime: str
    net: CondenseNet
    image: Tensor
    run: Callable[[], object]

    def explained(self, limits: Limits) -> str:
        """Its costliest operators, and the distance to what the hardware allows."""
        macs = direct_macs(self.net).at_exit[0]
        with tempfile.TemporaryDirectory() as place:
            graph: nn.Module | Path = self.net
            if self.runtime in ENGINES:
                write_graphs(self.net, Path(place), "fp32", None)
                graph = Path(place) / "direct-0.onnx"
            operators = costliest(self.runtime, graph, self.run, self.image, "fp32", 8)
        return (
            f"{macs / 1e6:,.1f} MMAC take {limits.ms(macs):.1f} ms at this core's rate of {limits.gflops:.0f} GFLOP/s.\n\n"
            f"{markdown(operator_table(operators))}"
        )


def main() -> None:
    """Measure, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    limits = measure_limits()
    rows, found, missed = [], {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.variants:
            plain, ways, chosen = prepared(name, Path(folder) / name)
            runs = {"plain": plain, **{title: way.run for title, way in ways.items()}}
            times = found[name] = interleaved(runs, given.rounds, waking=2)
            gains = {way: median(times["plain"]) / median(ms) for way, ms in times.items()}
            rows += [(name, way, spread(ms), f"{gains[way]:.2f}") for way, ms in times.items()]
            rows.append((name, f"(chosen: {chosen})", "", ""))
            best = max(ways, key=lambda way: gains[way])
            for way, wanted in {"eager, chosen": EAGER, best: BEST}.items():
                if gains[way] < wanted:
                    title = f"## {name}, {way}: {gains[way]:.2f} instead of {wanted:g}"
                    missed.append(f"\n{title}\n\n{ways[way].explained(limits)}")
    columns = ("network", "way", "ms, one image", "times plain")
    text = f"{header('Conversion of CondenseNets', given.rounds)}\n{__doc__.split(chr(10), 2)[2].strip()}\n\n"
    text += f"One thread reaches {limits}.\n\n"
    keep("conversion", text + markdown(Table(columns, tuple(rows))) + "".join(missed), found)


def prepared(name: str, folder: Path) -> tuple[Callable[[], object], dict[str, Way], str]:
    """The plain way, all others, and which forms were chosen."""
    torch.manual_seed(0)
    net = offramp.create(name).eval()
    assert isinstance(net, CondenseNet)
    config = net.config
    image = torch.randn(1, config.image_channels, config.image_size, config.image_size)
    condense(net, 1.0)
    chosen = fastest_forms(net)
    nets = {form: convert(net, forms_of(config, form)).eval() for form in cast(tuple[Form, ...], get_args(Form))}
    by_form: dict[str, CondenseNet] = {"masked": net} | {str(form): one for form, one in nets.items()}
    by_form |= {"chosen": convert(net, chosen).eval()}
    ways = {}
    for form, one in by_form.items():
        Classifier(one, tuple(map(str, range(config.num_classes))), None).save(folder / form)
        for runtime in ("eager",) if form == "masked" else RUNTIMES:
            ways[f"{runtime}, {form}"] = Way(runtime, one, image, runner(folder / form, runtime, image))
    plain = torch.inference_mode()(lambda: nets["grouped"].direct(0, image))
    return plain, ways, ", ".join(f"{count} {form}" for form, count in Counter(chosen).items())


def runner(folder: Path, runtime: str, image: Tensor) -> Callable[[], object]:
    """One image straight to the exit."""
    opened = offramp.load(folder, runtime=runtime, threads=1).running.runtime
    return lambda: opened.direct(0, image)


if __name__ == "__main__":
    main()
