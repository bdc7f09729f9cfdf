"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009)."""

from pathlib import Path
from typing import Literal

from offramp.data.parquet import read_part
from offramp.data.preprocess import Preprocessing
from offramp.data.source import SourceSpec, Split


def _source(name: str, mean: tuple[float, ...], std: tuple[float, ...]) -> SourceSpec:
    def read(root: Path | None, part: Literal["train", "test"]) -> tuple[tuple[str, ...], Split]:
        return read_part((root or Path()) / name, part, size=32, mode="RGB")

    return SourceSpec(name, Preprocessing(32, mean, std), holdout=5000, needs_root=True, read=read)


SOURCES = {
    "cifar10": _source("cifar10", (0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616)),
    "cifar100": _source("cifar100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
