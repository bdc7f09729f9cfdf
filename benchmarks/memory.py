"""Memory of one runtime in a process of its own; prints JSON for scaling.py.

Megabytes resident before the model is opened (the interpreter, PyTorch and this package), after it has answered, and the most
there ever was.
"""

import argparse
import json
from pathlib import Path

import torch

import offramp

RUNS = 5


def main() -> None:
    """Open, answer, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the model")
    parser.add_argument("runtime")
    parser.add_argument("batch", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = offramp.load  # imported when first asked for
    before = resident_mb("VmRSS")
    model = load(options.folder, runtime=options.runtime, threads=1)
    runtime = model.runtime
    size = model.net.config.image_size
    images = torch.zeros(options.batch, model.net.config.image_channels, size, size)
    with torch.inference_mode():
        for _ in range(RUNS):
            state = runtime.start(images)
            for k in range(runtime.num_exits):
                state, _ = runtime.step(k, state)
    print(json.dumps({"before_mb": before, "after_mb": resident_mb("VmRSS"), "peak_mb": resident_mb("VmHWM")}))


def resident_mb(field: str) -> float:
    """Of this process: VmRSS now, VmHWM at most, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1e6


if __name__ == "__main__":
    main()
