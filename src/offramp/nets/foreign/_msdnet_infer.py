"""Which MSDNet configuration a kalviny/MSDNet-PyTorch state dict was made with.

The keys give blocks, layers and scales, the widths give the rest. Values that a file leaves open do not change what its
network computes: the simplest is taken and said.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from statistics import mode
from typing import get_args

from offramp.errors import ArtifactError, ConfigError
from offramp.nets.foreign._msdnet_facts import Facts, read_facts
from offramp.nets.foreign._reading import Shapes
from offramp.nets.msdnet import MSDNetConfig, plain_plan
from offramp.nets.msdnet.config import Pruning, Spacing, Stem
from offramp.nets.msdnet.plan import StagePlan

Plan = tuple[StagePlan, ...]

IMAGE_SIZE: dict[Stem, int] = {"small": 32, "large": 224}
"""Side in pixels of the images the authors train each stem on."""

DEFAULT_REDUCTION = 0.5
"""Taken wherever it fits; the authors' default."""


@dataclass(frozen=True)
class Inferred:
    """A configuration, and one sentence for each value that the file itself does not settle."""

    config: MSDNetConfig
    settled: tuple[str, ...]


def infer(shapes: Shapes, spacing: Spacing | None = None, image_size: int | None = None) -> Inferred:
    """The configuration that comes nearest to these weights; whether it is exactly theirs is for the caller to check.

    Args:
        shapes: shape of every tensor, by key without ``module.``.
        spacing: the one to note where one or two exits fit both; None prefers ``even``.
        image_size: side in pixels that costs are quoted for; None takes :data:`IMAGE_SIZE`.

    Raises:
        ArtifactError: the keys are those of another network, or no MSDNet has such blocks or widths.
        ConfigError: ``spacing`` contradicts the file, or ``image_size`` is too small.
    """
    facts = read_facts(shapes)
    steps = _steps(facts.stage_layers)
    chosen = spacing or next(iter(steps))
    if chosen not in steps:
        layers, fits = _listed(facts.stage_layers), " or ".join(steps)
        raise ConfigError(f"spacing={spacing}: blocks of {layers} layers fit {fits} only; leave the option out")
    plans = _candidates(facts, chosen, steps[chosen])
    best = max(plans, key=lambda config: _agreement(plans[config], facts))
    settled = []
    if len(steps) > 1:
        settled.append(f"spacing={chosen}, step={best.step} ({_origin(spacing)}; so few exits fit even and linear)")
    settled += _open_widths(best, [config for config, plan in plans.items() if plan == plans[best]], facts)
    settled += _open_bottlenecks(best, facts)
    settled.append(f"image_size={image_size or best.image_size} ({_origin(image_size)}; weights do not show it)")
    return Inferred(best if image_size is None else best.replace(image_size=image_size), tuple(settled))


def _origin(option: object) -> str:
    return "assumed" if option is None else "given"


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(str(number) for number in numbers)


def _steps(layers: tuple[int, ...]) -> dict[Spacing, int]:
    """The step of each spacing that fits, the preferred one first."""
    if len(layers) == 1:
        return {"even": 1, "linear": 1}
    later = layers[1:]
    fits: dict[Spacing, int] = {}
    if len(set(later)) == 1:
        fits["even"] = later[0]
    step = later[0] - 1
    if step and all(count == step * k + 1 for k, count in enumerate(later, start=1)):
        fits["linear"] = step
    if not fits:
        raise ArtifactError(
            f"blocks of {_listed(layers)} layers are spaced neither evenly (all alike after the first) nor linearly "
            "(step*k + 1 in block k); check that the file is whole"
        )
    return fits


def _candidates(facts: Facts, spacing: Spacing, step: int) -> dict[MSDNetConfig, Plan]:
    """The configurations worth comparing and their plans, preferred ones first."""
    growth = mode(cell.new_channels for cell in facts.coarsest) // facts.factors[-1]
    stem: Stem = "large" if facts.large_stem else "small"
    plans: dict[MSDNetConfig, Plan] = {}
    reasons = []
    for common, reduction, pruning in _open_choices(facts, growth):
        try:
            config = MSDNetConfig(
                exits=len(facts.stage_layers),
                base=facts.stage_layers[0],
                step=step,
                spacing=spacing,
                channels=math.gcd(*facts.seeds) // common,
                growth_rate=growth // common,
                scale_factors=tuple(common * factor for factor in facts.factors),
                bottleneck_factors=_bottleneck_factors(facts),
                bottleneck=facts.bottleneck,
                reduction=reduction,
                pruning=pruning,
                stem=stem,
                image_channels=facts.cells[0, 0].in_channels,
                image_size=IMAGE_SIZE[stem],
                num_classes=facts.num_classes,
            )
            plans[config] = plain_plan(config)
        except ConfigError as error:
            reasons.append(str(error))
    if not plans:
        raise ArtifactError(f"no MSDNet has such widths: {reasons[0]}")
    return plans


def _open_choices(facts: Facts, growth: int) -> Iterator[tuple[int, float, Pruning]]:
    """Factor common to all scale factors, reduction, pruning: what single widths do not show, but all together may."""
    shared = math.gcd(*facts.seeds, growth)
    for common in (number for number in range(1, shared + 1) if shared % number == 0):
        for reduction in _reductions(facts, common):
            for pruning in get_args(Pruning):
                yield common, reduction, pruning


def _reductions(facts: Facts, common: int) -> tuple[float, ...]:
    """The simplest reduction that explains the transitions; both kinds of explanation where there are none."""
    if not facts.transitions:
        return DEFAULT_REDUCTION, 0.0
    widths = _base_widths(facts, common)
    least, _ = _reduction_range(widths)
    decimals = (math.ceil(least * 10**digits + more) / 10**digits for digits in range(7) for more in (0, 1))
    fitting = (
        reduction
        for reduction in (DEFAULT_REDUCTION, *decimals)
        if all(math.floor(reduction * before) == after for before, after in widths)
    )
    return (next(fitting, DEFAULT_REDUCTION),)


def _base_widths(facts: Facts, common: int) -> list[tuple[int, int]]:
    """Base width before and after each transition: a transition rounds this one, then multiplies by the factor."""
    factor = common * facts.factors[-1]
    return [(max(1, before // factor), after // factor) for before, after in facts.transitions]


def _reduction_range(widths: list[tuple[int, int]]) -> tuple[Fraction, Fraction]:
    """The least reduction that explains the widths, and the first that is too much."""
    least = max(Fraction(after, before) for before, after in widths)
    return least, min(Fraction(after + 1, before) for before, after in widths)


def _bottleneck_factors(facts: Facts) -> tuple[int, ...]:
    """One per scale: what a bottleneck shows, else the scale factor, raised until it fits."""
    if not facts.bottleneck:
        return facts.factors
    return tuple(
        _shown_bottleneck(facts, scale)
        or max([factor, *(-(-path.in_channels // path.out_channels) for path in facts.paths if path.scale == scale)])
        for scale, factor in enumerate(facts.factors)
    )


def _shown_bottleneck(facts: Facts, scale: int) -> int:
    """The factor of the paths that read ``scale``; 0 where none has an input wide enough to show it."""
    shown = (p.middle // p.out_channels for p in facts.paths if p.scale == scale and p.middle < p.in_channels)
    return next(shown, 0)


def _agreement(plan: Plan, facts: Facts) -> int:
    """How well the cells agree; the largest value only where they are all the same."""
    planned = [cell for stage in plan for cell in stage.cells]
    return 2 * sum(facts.cells.get(cell.key) == cell for cell in planned) - len(planned)


def _open_widths(best: MSDNetConfig, same: list[MSDNetConfig], facts: Facts) -> Iterator[str]:
    """Sentences on the values in which configurations of the same cells differ."""
    if any(config.scale_factors != best.scale_factors for config in same):
        yield f"scale_factors={best.scale_factors} (assumed; channels and growth_rate may share a factor with them)"
    if any(config.pruning != best.pruning for config in same):
        yield f"pruning={best.pruning} (assumed; max and min give the same cells here)"
    if facts.transitions:
        common = best.scale_factors[-1] // facts.factors[-1]
        least, most = (float(bound) for bound in _reduction_range(_base_widths(facts, common)))
        yield f"reduction={best.reduction:g} (assumed; any from {least:.4g} up to {most:.4g} gives the same widths)"
    elif any(config.reduction != best.reduction for config in same):
        yield f"reduction={best.reduction:g} (assumed; this network has no place for a transition)"


def _open_bottlenecks(best: MSDNetConfig, facts: Facts) -> Iterator[str]:
    """Sentences on bottleneck factors that no width shows."""
    if not facts.bottleneck:
        yield f"bottleneck_factors={best.bottleneck_factors} (assumed; there are no bottlenecks)"
        return
    for scale, factor in enumerate(best.bottleneck_factors):
        if not _shown_bottleneck(facts, scale):
            yield f"bottleneck_factors[{scale}]={factor} (assumed; every bottleneck there is as wide as its input)"
