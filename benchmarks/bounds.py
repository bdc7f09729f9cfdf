"""What norms as bounds gain in DenseNets: the same graph with and without them, in each engine, float32, one thread."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

import offramp
from common import header, interleaved, keep, markdown, spread
from graphs import ENGINES, open_file
from offramp.engine.graphs import alignment, whole_graph
from offramp.nets.base import MultiExitNet
from offramp.nets.bounds import with_bounds
from offramp.report.tables import Table

VARIANTS, BATCHES = ("densenet-cifar-bc-100-12", "densenet-121"), (1, 16)


def main() -> None:
    """Measure, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows, found = [], {}
    for name in VARIANTS:
        torch.manual_seed(0)
        net = offramp.create(name).eval()
        for batch in BATCHES:
            times = found[f"{name}, {batch}"] = interleaved(ways(net, batch), given.rounds, waking=1)
            for engine in ("eager", *ENGINES):
                norms, bounds = times[f"{engine}, norms"], times[f"{engine}, bounds"]
                ratio = median(slow / fast for slow, fast in zip(norms, bounds, strict=True))
                rows.append((name, str(batch), engine, spread(norms), spread(bounds), f"{ratio:.2f}"))
    columns = ("network", "images", "engine", "norms, ms", "bounds, ms", "norms / bounds")
    text = f"{header('Norms as bounds', given.rounds)}\n{__doc__}\n\n"
    keep("bounds", text + markdown(Table(columns, tuple(rows))), found)


def ways(net: MultiExitNet, batch: int) -> dict[str, Callable[[], object]]:
    """Each engine with norms and with bounds."""
    side = net.config.image_size
    images = torch.randn(batch, net.config.image_channels, side, side)
    found: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, bounds in (("norms", False), ("bounds", True)):
            path = Path(folder) / f"{kind}.onnx"
            path.write_bytes(whole_graph(net, bounds=bounds, align=alignment("fp32")).SerializeToString())
            for engine in ENGINES:
                found[f"{engine}, {kind}"] = open_file(engine, path, images)
            form = with_bounds(net.fused()) if bounds else net.fused()
            form = form.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            found[f"eager, {kind}"] = eager(form, images)
    return found


def eager(net: MultiExitNet, images: torch.Tensor) -> Callable[[], object]:
    """One operator after the other."""
    return torch.inference_mode()(lambda: net.direct(0, images))


if __name__ == "__main__":
    main()
