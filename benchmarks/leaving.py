"""Batches whose images leave at given exits in given shares, one thread."""

from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

import figures
from figures import Figure
from limits import Limits
from offramp.engine.budgeted import run_budgeted
from offramp.measure.macs import staged_macs
from offramp.runtimes import DirectRuntime
from offramp_runtime.policies import Threshold
from phases import Measured, Network, Phase, Subject, Times, count, public_code, ratios, staging, subject_table, timed
from runtimes import Opened, config_of, random_images, random_net, run_staged

SHARES = (0.40, 0.25, 0.15, 0.10, 0.10)
REFERENCE, WHOLE, EARLY = "public code, all exits", "all to the last exit", "leaving early"


def leaving(network: Network, opened: Opened, limits: Limits) -> list[Phase]:
    """By batch size: leaving early against all going to the last exit, and against the reference run whole."""
    config = config_of(network.variant)
    reference, net = public_code(config), random_net(config)
    at_exit = staged_macs(net).at_exit
    phases = []
    for size, rounds in network.batches.items():
        images = random_images(config, size)
        macs, share = size * at_exit[-1], 0.0
        subjects = [Subject(REFERENCE, "PyTorch", "fp32", partial(reference, images), count(reference, images))]
        for (name, precision), runtime in opened.runtimes.items():
            policy = thresholds_for(runtime, images)
            share = mac_share(run_budgeted(runtime, images, policy)[1], at_exit)
            whole, early = staging(runtime, images, config.exits - 1), partial(run_budgeted, runtime, images, policy)
            subjects.append(Subject(WHOLE, name, precision, whole, macs, net, opened.graph(precision)))
            subjects.append(Subject(EARLY, name, precision, early, macs * share, net, opened.graph(precision)))
        times = timed(subjects, rounds, warmup=1)
        where = f"{network.name}, batch {size}"
        places = ", ".join(map(str, leaving_exits(config.exits)))
        shares = " / ".join(f"{100 * part:.0f}" for part in SHARES)
        title = f"{where}: {shares} % leave at exits {places}, MAC share {share:.3f}; one thread, n = {rounds}"
        found = [
            one
            for precision in figures.PRECISIONS
            for one in kept_promises(where, precision, share, subjects, times, opened, images)
        ]
        phases.append(Phase(title, found, subject_table(subjects, times, limits), times))
    return phases


def kept_promises(
    where: str, precision: str, share: float, subjects: Sequence[Subject], times: Times, opened: Opened, images: Tensor
) -> list[Measured]:
    """Both figures of the fastest runtime of a precision."""
    promises = [figures.LEAVING] + ([figures.BUDGETED] if precision in figures.BUDGETED.must else [])
    rivals = [one for one in subjects if (one.what, one.precision) == (EARLY, precision)]
    if not rivals:
        reason = opened.reason(precision)
        return [Measured(Figure(promise, where, precision, "", [], [], reason)) for promise in promises]
    best = min(rivals, key=lambda one: median(times[one.name]))
    own, whole = times[best.name], times[f"{WHOLE} | {best.engine} {precision}"]
    values = [ratio / share for ratio in ratios(own, whole)], ratios(times[subjects[0].name], own)
    return [
        Measured(Figure(promise, where, precision, best.engine, own, value), best, images)
        for promise, value in zip(promises, values, strict=False)
    ]


def leaving_exits(num_exits: int) -> tuple[int, ...]:
    """Exits the shares leave at: evenly spaced, the last one included."""
    step = num_exits // len(SHARES)
    return tuple(range(step - 1, num_exits, step))


@torch.inference_mode()
def thresholds_for(runtime: DirectRuntime[Any], images: Tensor) -> Threshold:
    """Thresholds by which just these shares of the images leave, midway between neighbouring confidences."""
    confidences = [logits.softmax(-1).amax(-1) for logits in run_staged(runtime, images, runtime.num_exits - 1)]
    inside = torch.arange(len(images))
    thresholds = [float("inf")] * runtime.num_exits
    for k, share in zip(leaving_exits(runtime.num_exits)[:-1], SHARES, strict=False):
        leavers = round(share * len(images))
        order = confidences[k][inside].argsort(descending=True)
        last, first_to_stay = confidences[k][inside[order[leavers - 1 : leavers + 1]]].tolist()
        thresholds[k] = (last + first_to_stay) / 2
        inside = inside[order[leavers:]]
    return Threshold(tuple(thresholds))


def mac_share(exits: Tensor, at_exit: Sequence[float]) -> float:
    """Mean cost of images that left at ``exits`` (N,), as a share of going to the last exit."""
    return float(torch.tensor(at_exit, dtype=torch.float64)[exits].mean()) / at_exit[-1]
