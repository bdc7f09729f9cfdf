"""From normalised images to predictions, in whichever way was asked for."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from offramp.decide.policies import ExitPolicy
from offramp.engine.budgeted import run_budgeted
from offramp.engine.opening import AnyRuntime
from offramp.engine.stage_queues import run_queued
from offramp_runtime.budgeted import Regroup
from offramp_runtime.predictions import Predictions


def answer_at(runtime: AnyRuntime, k: int, pieces: Iterable[Tensor]) -> Iterator[Predictions]:
    """Everything straight to exit k."""
    for piece in pieces:
        with torch.inference_mode():
            logits = runtime.direct(k, piece)
        yield answered(logits, torch.full((len(piece),), k))


def answer_in_batches(
    runtime: AnyRuntime, policy: ExitPolicy, pieces: Iterable[Tensor], regroup: Regroup
) -> Iterator[Predictions]:
    """Each batch on its own."""
    for piece in pieces:
        yield answered(*run_budgeted(runtime, piece, policy, regroup=regroup))


def answer_in_queues(
    runtime: AnyRuntime, policy: ExitPolicy, pieces: Iterable[Tensor], batch_size: int, window: int | None
) -> Iterator[Predictions]:
    """Those that go on wait at each stage until a full batch is there."""
    for part in run_queued(runtime, pieces, policy, batch_size=batch_size, window=window):
        yield answered(*part)


def answered(logits: Tensor, exits: Tensor) -> Predictions:
    """Logits (N, C) and exits (N,) on any device, as predictions."""
    return Predictions.at(logits.float().cpu().numpy(), exits.cpu().numpy())
