"""One stage and its decision: the step that every way of running batches shares."""

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.decide.answers import AnswerRule, Memo
from offramp.decide.policies import ExitPolicy
from offramp.runtimes import Runtime

S = TypeVar("S")
Rows = NDArray[np.int64]
"""Indices on the host, (M,)."""
Mask = NDArray[np.bool_]
"""On the host, (N,)."""


def judge(
    runtime: Runtime[S], k: int, state: S, memo: Memo, policy: ExitPolicy, rule: AnswerRule
) -> tuple[S, Tensor, Memo, Mask]:
    """Run stage k and ask who leaves: the next state, logits (N, C), memo and mask (N,).

    The mask comes to the host, the one time this waits for the device. Nobody stays at the last exit.
    """
    state, logits = runtime.step(k, state)
    if k == runtime.num_exits - 1:
        return state, logits, memo, np.ones(len(logits), np.bool_)
    answer, memo = rule.answer(k, logits, memo)
    return state, logits, memo, policy.stop(k, answer, memo).cpu().numpy()


def on_device(rows: Rows, device: torch.device) -> Tensor:
    """The indices for ``take``; the host does not wait until they have arrived."""
    return torch.from_numpy(rows).to(device, non_blocking=True)


def take_memo(memo: Memo, rows: Tensor) -> Memo:
    """What a rule remembers of the samples ``rows``."""
    return tuple(part.index_select(0, rows) for part in memo)
