"""The learning rate as a pure function of the step."""

import math

from offramp.train.recipe import Recipe


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Rate of the exits at ``step``, counted from 0.

    A linear warm-up, whose first step has ``peak / warm-up steps``; then half a cosine that would reach 0 after the last
    step (without warm-up step 0 has the peak, as in the cosine recipes of the family), or steps down at the milestones
    (Huang et al., arXiv:1703.09844, section 5: tenths after half and three quarters of the run).
    """
    total = steps_per_epoch * recipe.epochs
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    peak = recipe.learning_rate
    if step < warmup:
        return peak * (step + 1) / warmup
    if recipe.schedule == "multistep":
        return peak * recipe.decay ** sum(step >= round(share * total) for share in recipe.milestones)
    done = (step - warmup) / max(1, total - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * done))
