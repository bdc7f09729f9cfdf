"""The learning rate as a pure function of the step."""

import math


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up over the first ``warmup_steps``, then half a cosine that would reach 0 at ``total_steps``.

    Args:
        step: counted from 0; without warm-up step 0 has the peak, as in the cosine recipes of the family.
        peak: highest rate.
        warmup_steps: steps of the linear rise; the first has ``peak / warmup_steps``.
        total_steps: length of the run.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * done))
