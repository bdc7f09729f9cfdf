"""What channels padded to whole blocks gain in exported graphs: MSDNets of odd growth, one thread.

Channels are padded with zeros to multiples of 1 (not at all), 8 and 16, and the network is run stage after stage to its last
exit, and straight there.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from common import header, interleaved, keep, markdown, spread
from limits import lacks
from offramp.engine.graphs import whole_graph, write_cut
from offramp.engine.int8 import quantize
from offramp.measure.macs import staged_macs
from offramp.nets.base import MultiExitNet
from offramp.report.tables import Table
from offramp_runtime import graph, onnx, openvino
from offramp_runtime.precision import Precision
from offramp_runtime.stages import Stages
from runtimes import IMAGES, config_of, random_images, random_net

VARIANTS, BATCHES, ALIGNMENTS = ("msdnet-cifar-anytime-10", "msdnet-cifar-batch-5"), {1: 20, 64: 5}, (1, 8, 16)
"""Networks, rounds by number of images, and multiples of channels."""
ENGINES: tuple[tuple[str, Precision], ...] = (
    ("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("onnx", "int8"), ("openvino", "int8"),
)  # fmt: skip
WAYS = ("staged", "direct")


def main() -> None:
    """Measure, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000, help="at most so many, for a first look")
    given = parser.parse_args()
    torch.set_num_threads(1)
    engines = [(engine, precision) for engine, precision in ENGINES if not lacks(precision)]
    rows, found, sizes = [], {}, []
    with tempfile.TemporaryDirectory() as place:
        for name in VARIANTS:
            net = random_net(config_of(name))
            macs = [staged_macs(net.fused(align=align)).at_exit[-1] / 1e6 for align in ALIGNMENTS]
            sizes.append(f"{name}: {' / '.join(f'{one:.1f}' for one in macs)} MMAC")
            opened = {
                (*pair, align): stages(net, *pair, align, Path(place) / f"{name} {' '.join(pair)} {align}")
                for pair in engines
                for align in ALIGNMENTS
            }
            for batch, usual in BATCHES.items():
                runs = {(*key, way): run for key, one in opened.items() for way, run in ways(net, one, batch).items()}
                named = {" ".join(map(str, key)): run for key, run in runs.items()}
                times = interleaved(named, min(usual, given.rounds), waking=2 if batch == 1 else 0)
                found[f"{name}, {batch}"] = times
                for engine, precision in engines:
                    for way in WAYS:
                        ms = [times[f"{engine} {precision} {align} {way}"] for align in ALIGNMENTS]
                        gain = median(padded / bare for bare, padded in zip(ms[0], ms[1], strict=True))
                        rows.append((name, str(batch), engine, precision, way, *map(spread, ms), f"{gain:.2f}"))
    columns = ("network", "images", "engine", "precision", "way", *(f"{a}, ms" for a in ALIGNMENTS), "8 over 1")
    text = f"{header('Channels in whole blocks', BATCHES[1])}\n{__doc__.split(chr(10), 2)[2].strip()}\n"
    text += f"At 64 images n = {BATCHES[64]}. {'; '.join(sizes)}.\n\n"
    keep("alignment", text + markdown(Table(columns, tuple(rows))), found)


def stages(net: MultiExitNet, engine: str, precision: Precision, align: int, folder: Path) -> Stages[Any]:
    """The network in an engine.

    Args:
        net: any.
        engine: onnx or openvino.
        precision: that it is computed in.
        align: multiple that channels are padded to.
        folder: a new one, for the graphs; they are read when they are needed.
    """
    whole = whole_graph(net, bounds=False, align=align)
    if precision == "int8":
        plain, quantised = folder.with_suffix(".plain"), folder.with_suffix(".int8")
        plain.write_bytes(whole.SerializeToString())
        quantize(plain, [random_images(net.config, IMAGES).numpy()], quantised)
        whole = graph.read(quantised)
    folder.mkdir()
    write_cut(whole, net.num_exits, folder)
    if engine == "onnx":
        return onnx.open_stages(folder, net.num_exits, threads=1)
    return openvino.open_stages(folder, net.num_exits, threads=1, precision=precision)


def ways(net: MultiExitNet, opened: Stages[Any], batch: int) -> dict[str, Callable[[], object]]:
    """Both ways to the last exit, by name."""
    images = random_images(net.config, batch).numpy()

    def staged() -> None:
        state = opened.start(images)
        for k in range(net.num_exits):
            state, _ = opened.step(k, state)

    return {"staged": staged, "direct": partial(opened.direct, net.num_exits - 1, images)}


if __name__ == "__main__":
    main()
