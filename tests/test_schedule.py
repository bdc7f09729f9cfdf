import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.catalog import entries
from offramp.train.recipe import Recipe
from offramp.train.schedule import learning_rate
from tiny import RECIPE

PUBLISHED = json.loads((Path(__file__).parent / "oracles" / "learning_rates.json").read_text())
"""What public code sets, see its ``source``."""


def cosine(epochs: int, peak: float = 1.0, warmup: float = 0) -> Recipe:
    return replace(RECIPE, epochs=epochs, learning_rate=peak, warmup_epochs=warmup)


def rates(recipe: Recipe, steps_per_epoch: int = 1) -> list[float]:
    return [learning_rate(recipe, step, steps_per_epoch) for step in range(recipe.epochs * steps_per_epoch)]


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("paper-cifar", "msdnet_pytorch_multistep_cifar300"),
        ("imagenet", "msdnet_pytorch_multistep_imagenet90"),
        ("imagenet-bilinear", "msdnet_pytorch_multistep_imagenet90"),
    ],
)
@pytest.mark.parametrize("steps_per_epoch", [1, 7, 703, 4805])
def test_the_papers_recipes_have_the_published_rate_in_every_epoch(
    name: str, published: str, steps_per_epoch: int
) -> None:
    recipe: Recipe = entries("recipes", "RECIPES")[name]
    for epoch, rate in PUBLISHED[published].items():
        first, last = int(epoch) * steps_per_epoch, (int(epoch) + 1) * steps_per_epoch - 1
        assert learning_rate(recipe, first, steps_per_epoch) == pytest.approx(rate, rel=1e-12)
        assert learning_rate(recipe, last, steps_per_epoch) == pytest.approx(rate, rel=1e-12)


def test_the_cosine_is_that_of_condensenet() -> None:
    for place, rate in PUBLISHED["condensenet_cosine"]["epochs300_nb100_lr0.1"].items():
        epoch, batch = map(int, place.split(","))
        assert learning_rate(cosine(300, 0.1), 100 * epoch + batch, 100) == pytest.approx(rate, rel=1e-6)


@given(st.integers(1, 500), st.floats(0.001, 10))
def test_without_warm_up_it_is_half_a_cosine_from_the_peak(total: int, peak: float) -> None:
    for step in range(0, total, max(1, total // 7)):
        expected = 0.5 * peak * (1 + math.cos(math.pi * step / total))
        assert learning_rate(cosine(total, peak), step, 1) == pytest.approx(expected)


def test_the_warm_up_rises_evenly_to_the_peak() -> None:
    assert rates(cosine(5, peak=0.8, warmup=1), 4)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])


def test_a_warm_up_may_be_part_of_an_epoch() -> None:
    assert rates(cosine(2, peak=0.8, warmup=0.5), 4)[:3] == pytest.approx([0.4, 0.8, 0.8])


@given(st.integers(0, 50), st.integers(1, 200))
def test_it_never_rises_after_the_warm_up_nor_exceeds_the_peak_and_ends_near_zero(warmup: int, rest: int) -> None:
    found = rates(cosine(warmup + rest, warmup=warmup))
    assert found[:warmup] == sorted(found[:warmup])
    assert found[warmup:] == sorted(found[warmup:], reverse=True)
    assert min(found) > 0
    assert max(found) == pytest.approx(1.0)
    assert found[-1] <= (math.pi / (2 * rest)) ** 2 + 1e-12


def test_the_middle_of_the_cosine_is_half_the_peak() -> None:
    assert learning_rate(cosine(5, peak=0.1, warmup=1), 15, 5) == pytest.approx(0.05)


def test_a_warm_up_as_long_as_the_run_or_longer_only_rises() -> None:
    assert rates(cosine(10, warmup=20)) == pytest.approx([(step + 1) / 20 for step in range(10)])
    assert learning_rate(cosine(10, warmup=10), 10, 1) == pytest.approx(1.0)


def test_a_multistep_rate_falls_by_its_factor_at_each_milestone_after_the_warm_up() -> None:
    recipe = replace(
        cosine(8, peak=0.4, warmup=1), schedule="multistep", milestones=(0.25, 0.5, 0.75), decay=0.5
    )  # fmt: skip
    expected = [0.2, 0.4, 0.4, 0.4, *[0.2] * 4, *[0.1] * 4, *[0.05] * 4]
    assert rates(recipe, 2) == pytest.approx(expected)


def test_without_milestones_a_multistep_rate_stays() -> None:
    recipe = replace(cosine(5, peak=0.3), schedule="multistep", milestones=())
    assert rates(recipe) == [0.3] * 5
