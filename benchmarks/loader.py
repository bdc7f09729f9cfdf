"""What feeding a training costs: the share of a CIFAR step, and images per second and core from folders.

The photographs of ``--data-root/photos`` are written to a folder, once as they are and once as 32x32 PNG files.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from statistics import median

import torch

import offramp
from common import header, interleaved, keep, markdown, spread
from offramp.catalog import lookup
from offramp.data.cifar import SOURCES
from offramp.data.detect import find_source
from offramp.data.holdout import Holdout
from offramp.data.preprocess import Preprocessing
from offramp.data.source import Samples, Split
from offramp.data.streamed import StreamedSplit
from offramp.data.workers import Workers
from offramp.report.tables import Table
from offramp.train.feed import Batch, Feed, open_feed
from offramp.train.prepare import prepare
from offramp.train.recipe import Recipe
from offramp.train.trainer import Trainer, build_seeded

ROUNDS, BATCH = 12, 64
CPU = torch.device("cpu")
NET = "msdnet-cifar-batch-5"


def main() -> None:
    """Print and keep both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    data_root = parser.parse_args().data_root
    torch.set_num_threads(1)
    times = cifar_times()
    text = header(f"Feeding a training, batch {BATCH}", ROUNDS)
    text += f"\n## CIFAR, in memory, against a step of {NET}\n\n" + markdown(share_table(times))
    with tempfile.TemporaryDirectory() as place:
        rates = folder_rates(data_root, Path(place))
    text += "\n## Folders\n\nOne core decodes in the training process itself; with workers the wall clock counts.\n\n"
    text += markdown(Table(("images", "per second and core", "per second, 2 workers"), tuple(rates)))
    keep("loader", text, times)


def cifar_times() -> dict[str, list[float]]:
    """Milliseconds of feeding and augmenting a batch, by recipe, and of a whole step."""
    count = 50_000
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=draw).numpy()
    split = Split(images, torch.randint(0, 10, (count,), generator=draw).numpy())
    preprocessing = SOURCES["cifar10"].preprocessing
    base: Recipe = replace(lookup("recipe", "cifar10", "recipes", "RECIPES"), batch_size=BATCH)
    recipes = {
        "crop, flip": base,
        "crop, flip, cutout": replace(base, cutout=8),
        "crop, flip, cutout, mix-up": replace(base, cutout=8, mixup=0.2),
    }
    trainer = Trainer(build_seeded(lambda: offramp.create(NET), 0), base, split, preprocessing, CPU)
    variants: dict[str, Callable[[], object]] = {"whole step": lambda: trainer.advance().tolist()}
    for name, recipe in recipes.items():
        feed = open_feed(split, recipe, preprocessing, Workers(0), CPU)
        variants[name] = feeding(feed.batches(0, 10**6), recipe, preprocessing)
    return interleaved(variants, ROUNDS)


def feeding(batches: Iterator[Batch], recipe: Recipe, preprocessing: Preprocessing) -> Callable[[], object]:
    """The next batch, ready for the network."""
    return lambda: prepare(next(batches), recipe, preprocessing, 10)


def share_table(times: dict[str, list[float]]) -> Table:
    """Each recipe's share of a step."""
    step = median(times["whole step"])
    rows = tuple((name, spread(values), f"{100 * median(values) / step:.2f}") for name, values in times.items())
    return Table(("what", "ms", "% of a step"), rows)


def folder_rates(data_root: Path, place: Path) -> Iterator[tuple[str, ...]]:
    """Images per second for each kind of folder and preparation."""
    imagenet = lookup("data set", "imagenet", "data", "SOURCES").preprocessing
    small = SOURCES["cifar10"].preprocessing
    photos = find_source(data_root / "photos", imagenet).read(None, "train")
    assert isinstance(photos, StreamedSplit)
    write(photos, place / "photos", None)
    write(photos, place / "small", 32)
    recipes = {
        "as ImageNet's paper recipe trains: random-resized crop, bicubic, colour jitter": "imagenet",
        "as its bilinear recipe trains: random-resized crop": "imagenet-bilinear",
    }
    size = "photographs, JPEG, shorter side up to 256"
    for what, name in recipes.items():
        recipe = replace(lookup("recipe", name, "recipes", "RECIPES"), batch_size=BATCH)
        yield (f"{size}, {what}", *rates(place / "photos", imagenet, feeder(recipe, imagenet)))
    yield (f"{size}, as it evaluates: 256, centre 224", *rates(place / "photos", imagenet, evaluating))
    yield ("32x32 PNG", *rates(place / "small", small, evaluating))


def write(photos: StreamedSplit, folder: Path, size: int | None) -> None:
    """Two classes of files, three times over."""
    for turn in range(3):
        for row in range(len(photos)):
            home = folder / f"class{row % 2}"
            home.mkdir(parents=True, exist_ok=True)
            if size is None:
                (home / f"{turn}-{row}.jpg").write_bytes(photos.encoded.data(row))
            else:
                photos.image(row).resize((size, size)).save(home / f"{turn}-{row}.png")


def feeder(recipe: Recipe, preprocessing: Preprocessing) -> Callable[[Samples, Workers], int]:
    """An epoch of the training's feed."""

    def run(samples: Samples, workers: Workers) -> int:
        feed: Feed = open_feed(samples, recipe, preprocessing, workers, CPU)
        steps = len(samples) // BATCH
        return sum(len(batch.labels) for batch in feed.batches(0, steps))

    return run


def evaluating(samples: Samples, workers: Workers) -> int:
    """All images once, as a network sees them."""
    return sum(len(batch) for batch in samples.prepared(_preprocessing(samples), workers).batches(BATCH))


def _preprocessing(samples: Samples) -> Preprocessing:
    assert isinstance(samples, StreamedSplit)
    return samples.preprocessing


def rates(folder: Path, preprocessing: Preprocessing, run: Callable[[Samples, Workers], int]) -> Iterator[str]:
    """Images per second of one core (CPU time), and of two workers (wall time, their start included)."""
    samples = find_source(folder, preprocessing).open(holdout=Holdout(size=2)).split("train")
    for workers, clock in ((Workers(0), time.process_time), (Workers(2), time.perf_counter)):
        found = []
        for _ in repeat(None, 3):
            began = clock()
            found.append(run(samples, workers) / (clock() - began))
        yield f"{median(found):,.0f}"


if __name__ == "__main__":
    main()
