import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load, save

from offramp.decide.calibration import Calibration
from offramp.errors import ArtifactError, BudgetError
from offramp_runtime.budget import simulate, solve_thresholds
from offramp_runtime.costs import Costs

RANDOM = np.random.default_rng(0)
CALIBRATION = Calibration(
    confidence=RANDOM.random((3, 40)).astype(np.float32),
    correct=RANDOM.random((3, 40)) < 0.7,
    source="halves",
    seed=5,
    indices=np.arange(40) * 2,
    identity="cd" * 32,
)
COSTS = Costs((1.0, 2.0, 4.0), "MAC")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.safetensors"
    CALIBRATION.save(path)
    return path


def rewrite(path: Path, arrays: dict[str, NDArray[np.generic]], **about: object) -> None:
    known = {"format": "offramp-calibration", "version": 1, "source": "halves", "seed": 5, "identity": "cd"}
    path.write_bytes(save(arrays, {"about": json.dumps({**known, **about})}))


def test_a_calibration_comes_back_as_it_was_saved(stored: Path) -> None:
    loaded = Calibration.load(stored)
    for field in ("confidence", "correct", "indices"):
        assert np.array_equal(getattr(loaded, field), getattr(CALIBRATION, field))
        assert getattr(loaded, field).dtype == getattr(CALIBRATION, field).dtype
    assert (loaded.source, loaded.seed, loaded.identity) == ("halves", 5, "cd" * 32)


def test_a_plan_is_solved_from_it_with_what_it_is_expected_to_cost_and_score() -> None:
    plan = CALIBRATION.solve(2.5, COSTS)
    assert plan.policy.thresholds == solve_thresholds(CALIBRATION.confidence, COSTS, 2.5)
    assert plan.expected == simulate(CALIBRATION.confidence, CALIBRATION.correct, plan.policy.thresholds, COSTS)
    assert plan.expected.mean_cost <= plan.budget == 2.5
    assert (plan.costs, plan.identity) == (COSTS, CALIBRATION.identity)


def test_a_loaded_calibration_solves_the_same_plan(stored: Path) -> None:
    assert Calibration.load(stored).solve(3.1, COSTS) == CALIBRATION.solve(3.1, COSTS)


def test_an_impossible_budget_is_refused() -> None:
    with pytest.raises(BudgetError, match="below exit 0"):
        CALIBRATION.solve(0.5, COSTS)


@given(cut=st.floats(0, 0.9999))
def test_wherever_the_file_is_cut_off_it_is_refused(stored: Path, cut: float) -> None:
    CALIBRATION.save(stored)
    whole = stored.read_bytes()
    stored.write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(ArtifactError, match=r"the calibration is damaged .*calibrate again"):
        Calibration.load(stored)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="the calibration is damaged"):
        Calibration.load(tmp_path / "calibration.safetensors")


def test_a_newer_version_is_refused(stored: Path) -> None:
    rewrite(stored, load(stored.read_bytes()), version=2)
    with pytest.raises(ArtifactError, match="offramp-calibration version 2 is newer"):
        Calibration.load(stored)


def test_other_tensors_are_not_taken_for_a_calibration(stored: Path) -> None:
    stored.write_bytes(save({"weight": np.zeros(3)}))
    with pytest.raises(ArtifactError, match="format None is not 'offramp-calibration'"):
        Calibration.load(stored)


@pytest.mark.parametrize("about", ["[]", "3", "not JSON"])
def test_a_header_that_is_no_table_is_refused(stored: Path, about: str) -> None:
    stored.write_bytes(save({"confidence": np.zeros((1, 1), np.float32)}, {"about": about}))
    with pytest.raises(ArtifactError, match="the calibration is damaged"):
        Calibration.load(stored)


@pytest.mark.parametrize("lost", ["confidence", "correct", "indices"])
def test_a_calibration_that_lost_an_array_is_refused(stored: Path, lost: str) -> None:
    arrays = load(stored.read_bytes())
    del arrays[lost]
    rewrite(stored, arrays)
    with pytest.raises(ArtifactError, match=f"damaged .*{lost}"):
        Calibration.load(stored)


@pytest.mark.parametrize(
    "shapes", [((3, 40), (3, 39), 40), ((3, 40), (3, 40), 39), ((40,), (40,), 40), ((3, 0), (3, 0), 0)], ids=str
)
def test_arrays_that_do_not_fit_together_are_refused(
    stored: Path, shapes: tuple[tuple[int, ...], tuple[int, ...], int]
) -> None:
    confidence, correct, count = shapes
    arrays = {"confidence": np.zeros(confidence, np.float32), "correct": np.zeros(correct, bool)}
    rewrite(stored, {**arrays, "indices": np.zeros(count, np.int64)})
    with pytest.raises(ArtifactError, match="do not fit together; calibrate again"):
        Calibration.load(stored)


def test_a_flipped_bit_in_the_scores_is_noticed(stored: Path) -> None:
    damaged = bytearray(stored.read_bytes())
    damaged[-1] ^= 1
    stored.write_bytes(damaged)
    with pytest.raises(ArtifactError, match="not those that were written; calibrate again"):
        Calibration.load(stored)
