"""Budgeted batches that really exit: who is done leaves the batch, the rest go on without them."""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from offramp.decide.answers import AnswerRule, Memo, ThisExit
from offramp.decide.policies import ExitPolicy
from offramp.engine.judge import Rows, judge, on_device, take_memo
from offramp.runtimes import Runtime
from offramp_runtime.budgeted import Regroup, always

S = TypeVar("S")
_NOTHING: Memo = ()


@torch.inference_mode()
def run_budgeted(
    runtime: Runtime[S],
    images: Tensor,
    policy: ExitPolicy,
    rule: AnswerRule | None = None,
    *,
    regroup: Regroup = always,
) -> tuple[Tensor, Tensor]:
    """Logits (N, C) of the exit each sample left at, and that exit (N,), on the CPU, in the order of the images.

    Costs one look at the mask per exit; and where the batch is regrouped, what the runtime needs to take those who stay.

    Args:
        runtime: computes.
        images: normalised, (N, C, H, W).
        policy: decides who leaves, each sample for itself; at the last exit everybody does.
        rule: what the policy judges; the newest exit alone by default.
        regroup: asked where the batch could shrink; where it does not, those who have left are computed and not read.
            :meth:`offramp_runtime.stage_table.StageTable.pays` knows when it pays.
    """
    rule = rule or ThisExit()
    count = size = len(images)
    state, memo = runtime.start(images), _NOTHING
    # Of those still inside: which image each is, and which row of the batch.
    places = rows = np.arange(count)
    # Of those who left, exit by exit; they are put in order once, in the end.
    gone: list[Rows] = []
    left: list[Tensor] = []
    exits: list[int] = []
    for k in range(runtime.num_exits):
        state, logits, memo, mask = judge(runtime, k, state, memo, policy, rule)
        leaves = mask[rows]
        if leaves.any() or not count:
            gone.append(places[leaves])
            left.append(logits.index_select(0, on_device(rows[leaves], logits.device)))
            exits.append(k)
            stays = ~leaves
            places, rows = places[stays], rows[stays]
        if not len(rows):
            break
        if len(rows) < size and regroup(k + 1, len(rows), size):
            there = on_device(rows, logits.device)
            state, memo, size = runtime.take(state, there), take_memo(memo, there), len(rows)
            rows = np.arange(size)
    answered, order = torch.cat(left), np.concatenate(gone).argsort()
    at = np.repeat(exits, [len(one) for one in gone])[order]
    return answered.index_select(0, on_device(order, answered.device)), torch.from_numpy(at)
