"""What compiling gains over the other runtimes for one image, and how long opening takes; one thread.

Times are to the last exit stage by stage, to exit 0, and straight to the last exit. Opening is done a
second time in this process, with what was compiled and optimised in the cache; the first time takes minutes in ``compiled``,
which makes graphs one by one.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch

from common import header, interleaved, keep, markdown, spread
from offramp.report.tables import Table
from phases import public_code, staging
from runtimes import RUNTIMES, config_of, open_runtime, random_images

VARIANT = "msdnet-cifar-anytime-10"


def main() -> None:
    """Measure, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = config_of(VARIANT)
    image, last = random_images(config, 1), config.exits - 1
    public = public_code(config)
    runs: dict[str, Callable[[], object]] = {"public code, staged": torch.inference_mode()(lambda: public(image))}
    opening: dict[str, float] = {}
    for name in RUNTIMES:
        if name == "onnx" and given.precision == "bf16":
            continue
        open_runtime(config, name, given.precision)
        began = time.perf_counter()
        runtime = open_runtime(config, name, given.precision)
        opening[name] = time.perf_counter() - began
        runs[f"{name}, staged"] = staging(runtime, image, last)
        runs[f"{name}, exit 0"] = staging(runtime, image, 0)
        runs[f"{name}, direct"] = partial(runtime.direct, last, image)
    times = interleaved(runs, given.rounds, waking=5)
    whole = times["public code, staged"]
    rows = []
    for name, seconds in opening.items():
        own = [times[f"{name}, {way}"] for way in ("staged", "exit 0", "direct")]
        ratio = median(slow / fast for slow, fast in zip(whole, own[0], strict=True))
        rows.append((name, *map(spread, own), f"{ratio:.2f}", f"{seconds:.1f}"))
    columns = ("runtime", "staged, ms", "exit 0, ms", "direct, ms", "staged, times public code", "opened again in, s")
    text = (
        f"{header(f'Compiled {VARIANT}, {given.precision}', given.rounds)}\n{__doc__.split(chr(10), 2)[2].strip()}\n\n"
    )
    text += f"Public code, all cells and exits, eager: {spread(whole)} ms. Rounds follow five runs of its own each.\n\n"
    keep(f"compiled_{given.precision}", text + markdown(Table(columns, tuple(rows))), times)


if __name__ == "__main__":
    main()
