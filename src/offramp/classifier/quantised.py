"""Quantising a classifier's network."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from offramp.classifier.checks import check_classes
from offramp.classifier.classifier import Classifier
from offramp.data.source import Source
from offramp.engine.graphs import write_whole
from offramp.engine.int8 import quantize

IMAGES = 512
"""Training images whose activations tell the ranges."""
_BATCH = 64


def quantise(classifier: Classifier, source: Source, out: Path) -> None:
    """Write the int8 graph of all exits to ``out`` and have the classifier use it for precision int8.

    Args:
        classifier: of the source's classes.
        source: of its ``train`` split some images are looked at, as they are: not augmented, chosen by seed.
        out: file to write.

    Raises:
        DataError: the source has other classes.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    check_classes(classifier.classes, source)
    train = source.split("train")
    rows = np.random.default_rng(source.holdout.seed).permutation(len(train))[:IMAGES]
    preprocessing = classifier.intake.preprocessing

    def batches() -> Iterator[NDArray[np.float32]]:
        for pixels in train.take(np.sort(rows)).batches(_BATCH):
            yield preprocessing.normalize(torch.from_numpy(pixels)).contiguous().numpy()

    quantise_with(classifier, batches(), out)


def quantise_with(classifier: Classifier, batches: Iterable[NDArray[np.float32]], out: Path) -> None:
    """:func:`quantise` with normalised images (n, C, H, W) of one's own."""
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "all-exits.onnx"
        write_whole(classifier.net, graph)
        quantize(graph, batches, out)
    classifier.running.int8_graph = out
