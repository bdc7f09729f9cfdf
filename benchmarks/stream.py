"""Does a folder stream with bounded memory? 20,000 files made here, one whole epoch of the ImageNet feed.

Memory is the proportional set size of the training process and all its workers, so that what they share counts once. The
same is measured for 2,000 files: what a folder costs may not grow with it, but for the list of its names.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from common import header, keep, markdown
from offramp.catalog import lookup
from offramp.data.detect import find_source
from offramp.data.holdout import Holdout
from offramp.data.streamed import StreamedSplit
from offramp.data.workers import Workers
from offramp.report.tables import Table
from offramp.train.feed import open_feed

FILES, CLASSES, BATCH, WORKERS = 20_000, 50, 64, 2


def main() -> None:
    """Print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--files", type=int, default=FILES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, raw = [], {}
    for count in (options.files // 10, options.files):
        with tempfile.TemporaryDirectory() as place:
            write(options.data_root, Path(place), count)
            began = time.perf_counter()
            megabytes = list(stream(Path(place)))
            seconds = time.perf_counter() - began
        half = len(megabytes) // 2
        cells = (max(megabytes), np.mean(megabytes[1:half]), np.mean(megabytes[half:]))
        rows.append((f"{count:,}", f"{count / seconds:,.0f}", *(f"{value:,.0f}" for value in cells)))
        raw[str(count)] = megabytes
    columns = ("files", "images/s", "largest, MB", "mean of the first half, MB", "mean of the second half, MB")
    text = header(f"Streaming a folder, {WORKERS} workers, batch {BATCH}", 1)
    text = text.replace("interleaved rounds, median [p10 … p90], process CPU time", "run, wall time")
    keep("stream", text + "\n" + markdown(Table(columns, tuple(rows))), raw)


def write(data_root: Path, place: Path, count: int) -> None:
    """``count`` JPEG files in class folders: the photographs over and over."""
    imagenet = lookup("data set", "imagenet", "data", "SOURCES").preprocessing
    photos = find_source(data_root / "photos", imagenet).read(None, "train")
    assert isinstance(photos, StreamedSplit)
    contents = [photos.encoded.data(row) for row in range(len(photos))]
    for number in range(count):
        home = place / f"class{number % CLASSES}"
        home.mkdir(exist_ok=True)
        (home / f"{number}.jpg").write_bytes(contents[number % len(contents)])


def stream(place: Path) -> Iterator[float]:
    """One epoch; yields the megabytes held after every fifth batch."""
    recipe = replace(lookup("recipe", "imagenet-bilinear", "recipes", "RECIPES"), batch_size=BATCH)
    imagenet = lookup("data set", "imagenet", "data", "SOURCES").preprocessing
    samples = find_source(place, imagenet).open(holdout=Holdout(size=1)).split("train")
    feed = open_feed(samples, recipe, imagenet, Workers(WORKERS), torch.device("cpu"))
    for step, _ in enumerate(feed.batches(0, -(-len(samples) // BATCH))):
        if step % 5 == 0:
            yield sum(map(proportional_bytes, family(Path("/proc/self")))) / 1e6


def family(process: Path) -> Iterator[Path]:
    """A process and all below it."""
    yield process
    for task in (process / "task").iterdir():
        for child in (task / "children").read_text().split():
            yield from family(Path("/proc") / child)


def proportional_bytes(process: Path) -> int:
    """Its share of memory, what several hold divided among them."""
    lines = (process / "smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
