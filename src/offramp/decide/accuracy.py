"""Accuracy of stored logits."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.decide.answers import AnswerRule, RunningEnsemble, ThisExit, answers


@dataclass(frozen=True)
class ExitAccuracy:
    """Accuracy 0 … 1 at each exit, each (K,)."""

    top1: tuple[float, ...]
    top5: tuple[float, ...]
    ensemble_top1: tuple[float, ...]
    """Of the mean probability of all exits so far."""
    ensemble_top5: tuple[float, ...]


def exit_accuracy(logits: Tensor, labels: NDArray[np.int64]) -> ExitAccuracy:
    """Accuracy of logits (K, N, C) against labels (N,), exits alone and as running ensemble."""
    target = torch.from_numpy(labels)
    single, ensemble = ThisExit(), RunningEnsemble()
    return ExitAccuracy(
        _top(single, logits, target, 1),
        _top(single, logits, target, 5),
        _top(ensemble, logits, target, 1),
        _top(ensemble, logits, target, 5),
    )


def _top(rule: AnswerRule, logits: Tensor, labels: Tensor, count: int) -> tuple[float, ...]:
    """Share of samples whose label is among the ``count`` most probable classes, (K,)."""
    count = min(count, logits.shape[-1])
    return tuple(
        (answer.probabilities.topk(count, dim=-1).indices == labels[:, None]).any(-1).double().mean().item()
        for answer in answers(rule, logits)
    )
