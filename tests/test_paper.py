import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.decide.paper import SweepPoint, paper_shares, paper_sweep, paper_thresholds
from offramp_runtime.budget import Flags, Scores, simulate
from offramp_runtime.costs import Costs

GOLDENS: dict[str, Any] = json.loads((Path(__file__).parent / "oracles" / "dynamic_eval.json").read_text())
SWEEP, TIES, SHARES = GOLDENS["dynamic_eval"], GOLDENS["dynamic_eval_ties"], GOLDENS["exit_distribution"]


def scores_of(golden: dict[str, Any], part: str) -> tuple[Scores, Flags]:
    probabilities = np.asarray(golden[f"{part}_probs"], np.float32)
    return probabilities.max(-1), probabilities.argmax(-1) == np.asarray(golden[f"{part}_targets"])


def costs_of(golden: dict[str, Any]) -> Costs:
    return Costs(tuple(golden["flops"]), "MAC")


def as_stored(thresholds: tuple[float, ...]) -> list[float]:
    """The reference writes 1e8 where nobody leaves and -1e8 where everybody does."""
    return [math.copysign(1e8, t) if math.isinf(t) else t for t in thresholds]


@pytest.fixture(scope="module")
def points() -> list[SweepPoint]:
    return paper_sweep(scores_of(SWEEP, "val"), scores_of(SWEEP, "test"), costs_of(SWEEP))


def test_the_sweep_has_the_published_points_in_order(points: list[SweepPoint]) -> None:
    assert [point.p for point in points] == [row["p"] for row in SWEEP["results"]] == list(range(1, 40))


@pytest.mark.parametrize("row", SWEEP["results"], ids=lambda row: f"p{row['p']}")
def test_the_published_evaluation_is_reproduced(row: dict[str, Any], points: list[SweepPoint]) -> None:
    point = points[row["p"] - 1]
    assert as_stored(point.thresholds) == row["thresholds"]
    for part, found in (("val", point.fitted), ("test", point.applied)):
        assert 100 * found.accuracy == pytest.approx(row[f"{part}_acc"], rel=1e-12)
        assert found.mean_cost == pytest.approx(row[f"{part}_flops"], rel=1e-12)


@pytest.mark.parametrize("row", TIES["results"], ids=lambda row: str(row["probs"]))
def test_ties_are_treated_as_published(row: dict[str, Any]) -> None:
    confidence, correct = scores_of(TIES, "val")
    thresholds = paper_thresholds(confidence, np.asarray(row["probs"], np.float32))
    assert as_stored(thresholds) == row["thresholds"]
    found = simulate(confidence, correct, thresholds, costs_of(TIES))
    assert (100 * found.accuracy, found.mean_cost) == pytest.approx((row["val_acc"], row["val_flops"]), rel=1e-12)


@pytest.mark.parametrize(("exits", "p"), [(exits, p) for exits, rows in SHARES.items() for p in rows])
def test_the_published_shares_are_reproduced(exits: str, p: str) -> None:
    expected = SHARES[exits][p]
    assert paper_shares(int(p), len(expected)) == pytest.approx(expected, abs=1.5e-7)


def test_the_middle_of_the_sweep_is_uniform() -> None:
    assert paper_shares(20, 5) == pytest.approx([0.2] * 5)


def test_nobody_leaves_where_fewer_are_left_than_the_share_asks_for() -> None:
    confidence: Scores = np.array([[0.9, 0.9, 0.9, 0.1], [0.5, 0.5, 0.5, 0.5], [1, 1, 1, 1]], np.float32)
    first, second, last = paper_thresholds(confidence, np.array([0.25, 0.5, 0.25], np.float32))
    assert first == np.float32(0.9)  # one was asked for; the three who are equally sure leave
    assert (second, last) == (math.inf, -math.inf)
