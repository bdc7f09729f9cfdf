"""Budgeted batches that really exit: who is done leaves the batch, the rest go on without them."""

from typing import TypeVar

import torch
from torch import Tensor

from offramp.decide.answers import AnswerRule, Memo, ThisExit
from offramp.decide.policies import ExitPolicy
from offramp.runtimes import Runtime

S = TypeVar("S")


@torch.inference_mode()
def run_budgeted(
    runtime: Runtime[S], images: Tensor, policy: ExitPolicy, rule: AnswerRule | None = None
) -> tuple[Tensor, Tensor]:
    """Logits (N, C) of the exit each sample left at, and that exit (N,), in the order of the images.

    Costs one look at the mask per exit and a copy of the state of those who stay, where anybody leaves.

    Args:
        runtime: computes.
        images: normalised, (N, C, H, W).
        policy: decides who leaves; at the last exit everybody does.
        rule: what the policy judges; the newest exit alone by default.
    """
    rule = rule or ThisExit()
    last = runtime.num_exits - 1
    state, memo = runtime.start(images), Memo()
    inside = torch.arange(len(images), device=images.device)
    exits = torch.full_like(inside, last)
    answered: Tensor | None = None
    for k in range(runtime.num_exits):
        state, logits = runtime.step(k, state)
        if answered is None:
            answered = logits.new_empty(len(images), logits.shape[1])
        if k == last:
            answered[inside] = logits
            break
        answer, memo = rule.answer(k, logits, memo)
        leaves = policy.stop(k, answer, memo)
        gone, rest = leaves.nonzero()[:, 0], (~leaves).nonzero()[:, 0]
        if len(gone):
            answered[inside[gone]] = logits[gone]
            exits[inside[gone]] = k
            state, memo = runtime.take(state, rest), _take(memo, rest)
            inside = inside[rest]
        if not len(inside):
            break
    assert answered is not None  # every network has an exit
    return answered, exits


def _take(memo: Memo, rows: Tensor) -> Memo:
    return tuple(part.index_select(0, rows) for part in memo)
