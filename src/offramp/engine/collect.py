"""Running everything once, so that all else is arithmetic."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.data.preprocess import Preprocessing
from offramp.decide.answers import AnswerRule, answers
from offramp.decide.budget import Flags, Scores
from offramp.runtimes import Runtime

S = TypeVar("S")


@torch.inference_mode()
def collect(
    runtime: Runtime[S],
    images: NDArray[np.uint8],
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    batch_size: int = 128,
    report: Callable[[int], None] | None = None,
) -> Tensor:
    """Logits (K, N, C) of all exits, float32 on the CPU, for uint8 images (N, H, W, C).

    For 50,000 images, 5 exits and 1,000 classes that is 1 GB; :func:`scores` keeps what calibration needs.

    Args:
        runtime: any runtime, on ``device``.
        images: decoded images.
        preprocessing: of the model.
        device: where batches are normalised and run.
        batch_size: images at a time.
        report: told how many images are done after each batch.
    """
    parts = []
    for first in range(0, len(images), batch_size):
        batch = torch.from_numpy(images[first : first + batch_size]).to(device)
        state = runtime.start(preprocessing.normalize(batch))
        logits = []
        for k in range(runtime.num_exits):
            state, one = runtime.step(k, state)
            logits.append(one)
        parts.append(torch.stack(logits).float().cpu())
        if report is not None:
            report(first + len(batch))
    return torch.cat(parts, dim=1)


def scores(rule: AnswerRule, logits: Tensor, labels: NDArray[np.int64]) -> tuple[Scores, Flags]:
    """Confidence and correctness of the answers at every exit, each (K, N), for logits (K, N, C)."""
    found = answers(rule, logits)
    confidence = np.stack([one.confidence.numpy() for one in found])
    correct = np.stack([one.label.numpy() == labels for one in found])
    return confidence, correct
