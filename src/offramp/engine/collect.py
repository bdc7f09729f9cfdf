"""Running everything once, so that all else is arithmetic."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.data.preprocess import Preprocessing
from offramp.data.source import Samples
from offramp.decide.answers import AnswerRule, answers
from offramp.runtimes import Runtime
from offramp_runtime.budget import Flags, Scores

S = TypeVar("S")

BATCH = 128
"""Samples per step where all go through all exits."""


@torch.inference_mode()
def collect_batches(
    runtime: Runtime[S],
    batches: Iterable[NDArray[np.uint8]],
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    report: Callable[[int], None] | None = None,
) -> Iterator[Tensor]:
    """Logits (K, n, C) of all exits for each batch, float32 on the CPU.

    Args:
        runtime: any runtime, on ``device``.
        batches: decoded images, uint8 (n, H, W, C).
        preprocessing: of the model.
        device: where batches are normalised and run.
        report: told how many images are done after each batch.
    """
    done = 0
    for batch in batches:
        pixels = torch.from_numpy(preprocessing.decode(batch)).to(device)
        state = runtime.start(preprocessing.normalize(pixels))
        logits = []
        for k in range(runtime.num_exits):
            state, one = runtime.step(k, state)
            logits.append(one)
        yield torch.stack(logits).float().cpu()
        done += len(batch)
        if report is not None:
            report(done)


def collect(
    runtime: Runtime[S],
    batches: Iterable[NDArray[np.uint8]],
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    report: Callable[[int], None] | None = None,
) -> Tensor:
    """All of :func:`collect_batches` in one tensor (K, N, C).

    For 50,000 images, 5 exits and 1,000 classes that is 1 GB; :func:`collect_scores` keeps what calibration needs.
    """
    return torch.cat(list(collect_batches(runtime, batches, preprocessing, device=device, report=report)), dim=1)


def collect_scores(
    runtime: Runtime[S],
    samples: Samples,
    preprocessing: Preprocessing,
    rule: AnswerRule,
    *,
    device: torch.device,
    report: Callable[[int], None] | None = None,
) -> tuple[Scores, Flags]:
    """:func:`scores` of all samples, each (K, N), batch by batch: the logits of ImageNet's hold-out would be gigabytes.

    Args:
        runtime: any runtime, on ``device``.
        samples: with their labels.
        preprocessing: of the model.
        rule: what would be answered.
        device: where batches are normalised and run.
        report: told how many are done after each batch.
    """
    parts, done = [], 0
    for logits in collect_batches(runtime, samples.batches(BATCH), preprocessing, device=device, report=report):
        parts.append(scores(rule, logits, samples.labels[done : done + logits.shape[1]]))
        done += logits.shape[1]
    confidence, correct = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    return confidence, correct


def scores(rule: AnswerRule, logits: Tensor, labels: NDArray[np.int64]) -> tuple[Scores, Flags]:
    """Confidence and correctness of the answers at every exit, each (K, N), for logits (K, N, C)."""
    found = answers(rule, logits)
    confidence = np.stack([one.confidence.numpy() for one in found])
    correct = np.stack([one.label.numpy() == labels for one in found])
    return confidence, correct
