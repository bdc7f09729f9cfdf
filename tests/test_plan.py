import json
import math
from pathlib import Path
from typing import Any

import pytest

from offramp.errors import ArtifactError
from offramp_runtime.budget import Outcome
from offramp_runtime.costs import Costs
from offramp_runtime.plan import ExitPlan
from offramp_runtime.policies import Threshold

PLAN = ExitPlan(
    Threshold((math.inf, 0.7310585975646973, -math.inf)),
    budget=2.5,
    costs=Costs((1.0, 2.0, 4.0), "ms"),
    expected=Outcome(0.9, 2.25, (0.0, 0.875, 0.125)),
    identity="ab" * 32,
    machine="cafe" * 4,
)


def refuse_constants(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    PLAN.save(path)
    return path


def rewrite(path: Path, **changes: Any) -> None:
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, **changes}))


def test_a_plan_comes_back_as_it_was_saved(stored: Path) -> None:
    assert ExitPlan.load(stored) == PLAN


def test_the_file_is_legal_json_although_thresholds_may_be_infinite(stored: Path) -> None:
    fields = json.loads(stored.read_text(), parse_constant=refuse_constants)
    assert fields["format"] == "offramp-plan"
    assert fields["version"] == 1


def test_a_newer_plan_is_refused_by_version(stored: Path) -> None:
    rewrite(stored, version=99)
    with pytest.raises(ArtifactError, match=r"plan\.json: offramp-plan version 99 is newer"):
        ExitPlan.load(stored)


def test_a_file_of_another_format_is_refused(stored: Path) -> None:
    rewrite(stored, format="offramp-model")
    with pytest.raises(ArtifactError, match=r"format 'offramp-model' is not 'offramp-plan'"):
        ExitPlan.load(stored)


def test_a_missing_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        ExitPlan.load(tmp_path / "plan.json")


def test_a_truncated_plan_is_refused(stored: Path) -> None:
    stored.write_text(stored.read_text()[:100])
    with pytest.raises(ArtifactError, match="cannot be read as JSON"):
        ExitPlan.load(stored)


@pytest.mark.parametrize("field", ["identity", "budget", "unit", "costs", "thresholds", "expected"])
def test_a_plan_without_one_of_its_fields_is_refused(stored: Path, field: str) -> None:
    fields = json.loads(stored.read_text())
    del fields[field]
    stored.write_text(json.dumps(fields))
    with pytest.raises(ArtifactError, match=f"the plan is incomplete.*{field}.*solve it anew"):
        ExitPlan.load(stored)


@pytest.mark.parametrize(
    "change",
    [
        {"thresholds": 3}, {"thresholds": ["sure", 1, 2]}, {"thresholds": [0.5, "-inf"]}, {"thresholds": ["nan", 0.5, 1]},
        {"costs": [3, 2, 1]}, {"costs": []}, {"costs": None}, {"unit": "parsec"}, {"budget": "much"}, {"expected": None},
        {"expected": {"accuracy": 1}},
    ],
    ids=str,
)  # fmt: skip
def test_a_plan_with_a_senseless_value_is_refused_by_file(stored: Path, change: dict[str, Any]) -> None:
    rewrite(stored, **change)
    with pytest.raises(ArtifactError, match=r"plan\.json: .*solve it anew"):
        ExitPlan.load(stored)
