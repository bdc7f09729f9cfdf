import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import offramp_runtime
from bundles import ClockedStages, as_kind, assert_close, copy_of, edit
from offramp_runtime import (
    ArtifactError,
    BudgetError,
    ConfigError,
    DataError,
    ExitPlan,
    MissingExtraError,
    Model,
    Predictions,
)
from offramp_runtime.bundle import CALIBRATION, Manifest, read_bundle
from offramp_runtime.preprocess import Images
from tiny import CLASSES, images, make_classifier, write_images

CLASSIFIER = make_classifier()
PIXELS = images(40)
KINDS = ["onnx", "openvino"]


@pytest.fixture(scope="module", params=KINDS)
def model(bundle: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The classifier's bundle, opened."""
    if request.param == "openvino":
        pytest.importorskip("openvino")
        return offramp_runtime.load(as_kind(bundle, tmp_path_factory.mktemp("openvino"), "openvino"), threads=1)
    return offramp_runtime.load(bundle, threads=1)


@pytest.fixture
def clocked(bundle: Path) -> Callable[[Sequence[float]], Model]:
    """A model of stages that take so many milliseconds each on a clock of their own."""
    opened = offramp_runtime.load(bundle, threads=1)

    def make(ms: Sequence[float]) -> Model:
        stages = ClockedStages(opened.stages, ms)
        return Model(read_bundle(bundle), stages, "onnx", "cafe" * 4, stages.clock)

    return make


def middle(place: float = 0.5) -> float:
    """A budget between the costs of the first and the last exit."""
    first, *_, last = CLASSIFIER.costs.at_exit
    return first + place * (last - first)


def same(found: Predictions, wanted: Predictions) -> None:
    """The same answers, up to rounding of the logits."""
    assert found.label.tolist() == wanted.label.tolist()
    assert found.exit_index.tolist() == wanted.exit_index.tolist()
    assert_close(found.logits, wanted.logits)
    assert found.probability == pytest.approx(wanted.probability, abs=1e-4)
    assert (found.logits.dtype, found.label.dtype) == (np.dtype(np.float32), np.dtype(np.int64))


# ---- the same answers


@pytest.mark.parametrize(
    "asked", [{}, {"exit": 0}, {"exit": 1}, {"exit": 2}, *({"budget": middle(at)} for at in (0, 0.3, 0.5, 0.8, 1))], ids=str
)  # fmt: skip
def test_it_answers_as_the_classifier_does(model: Model, asked: dict[str, Any]) -> None:
    wanted = CLASSIFIER.predict(PIXELS, **asked)
    same(model.predict(PIXELS, **asked), wanted)
    model.batch_size = 16  # of images left over in the last batch
    same(model.predict(PIXELS, **asked), wanted)
    model.batch_size = Model.batch_size


def test_a_budget_is_really_spread_over_the_exits() -> None:
    assert set(CLASSIFIER.predict(PIXELS, budget=middle()).exit_index.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("unit", [("MAC", 1), ("KMAC", 1e3), ("MMAC", 1e6)], ids=str)
def test_a_budget_may_be_text_with_a_unit(model: Model, unit: tuple[str, float]) -> None:
    name, factor = unit
    same(model.predict(PIXELS, budget=f"{middle() / factor!r}{name}"), CLASSIFIER.predict(PIXELS, budget=middle()))


def test_a_plan_of_the_classifier_serves_as_object_and_as_file(model: Model, tmp_path: Path) -> None:
    plan = CLASSIFIER.plan(middle())
    plan.save(tmp_path / "plan.json")
    wanted = CLASSIFIER.predict(PIXELS, plan=plan)
    for given in (plan, tmp_path / "plan.json", str(tmp_path / "plan.json"), model.plan(middle())):
        same(model.predict(PIXELS, plan=given), wanted)


def test_a_plan_is_solved_as_the_classifier_solves_it(model: Model) -> None:
    assert model.plan(middle()) == CLASSIFIER.plan(middle())


def test_paths_and_pictures_are_answered_as_arrays_are(model: Model, tmp_path: Path) -> None:
    paths = write_images(tmp_path, 5)
    wanted = CLASSIFIER.predict(PIXELS[:5])
    pictures = [Image.open(path) for path in paths]
    many: list[Images] = [paths, [str(path) for path in paths], tuple(pictures), [pictures[0], *paths[1:]]]
    for given in many:
        same(model.predict(given), wanted)
    for one in (paths[0], str(paths[0]), pictures[0]):
        same(model.predict(one), CLASSIFIER.predict(PIXELS[:1]))


def test_pictures_of_other_sizes_are_resized_as_the_classifier_does(model: Model) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 31, 3), np.uint8))
    same(model.predict(photo), CLASSIFIER.predict(photo))


@pytest.mark.parametrize(
    "asked", [{}, {"exit": 1}, {"budget": middle()}, {"plan": CLASSIFIER.plan(middle())}, {"deadline_ms": 60_000}],
    ids=lambda asked: "+".join(asked) or "all",
)  # fmt: skip
@pytest.mark.parametrize("nothing", [[], PIXELS[:0]], ids=["list", "array"])
def test_no_images_get_no_answers(model: Model, asked: dict[str, Any], nothing: Any) -> None:
    found = model.predict(nothing, **asked)
    assert len(found) == 0
    assert found.probabilities.shape == (0, 4)


def test_a_stream_gives_the_answer_of_every_exit(model: Model) -> None:
    answers = list(model.stream(PIXELS))
    assert [answer.exit_index[0] for answer in answers] == [0, 1, 2]
    for k, answer in enumerate(answers):
        same(answer, CLASSIFIER.predict(PIXELS, exit=k))


def test_progress_is_reported_after_every_batch(model: Model) -> None:
    seen: list[int] = []
    model.batch_size = 16
    for asked in ({}, {"budget": middle()}):
        model.predict(PIXELS, report=seen.append, **asked)  # type: ignore[arg-type]
    model.batch_size = Model.batch_size
    assert seen == [16, 32, 40] * 2


def test_it_knows_classes_and_costs(model: Model) -> None:
    assert model.classes == CLASSES
    assert model.costs == CLASSIFIER.costs


def test_real_stages_can_be_measured(model: Model) -> None:
    found = model.predict(PIXELS[:1], deadline_ms=60_000)
    same(found, CLASSIFIER.predict(PIXELS[:1], exit=2))
    plan = model.plan("60s")
    assert plan.machine is not None
    same(model.predict(PIXELS, plan=plan), CLASSIFIER.predict(PIXELS, exit=2))


# ---- time, on a clock that nobody else moves


@pytest.mark.parametrize(("deadline", "k"), [(150, 0), (350, 1), (750, 2), (1e6, 2)])
def test_a_deadline_is_answered_at_the_deepest_exit_that_fits(
    clocked: Callable[[Sequence[float]], Model], deadline: float, k: int
) -> None:
    model = clocked((100, 200, 400))
    same(model.predict(PIXELS, deadline_ms=deadline), CLASSIFIER.predict(PIXELS, exit=k))
    assert [answer.exit_index[0] for answer in model.stream(PIXELS, deadline)] == list(range(k + 1))


def test_what_the_reader_of_a_stream_takes_counts_too(clocked: Callable[[Sequence[float]], Model]) -> None:
    model = clocked((100, 200, 400))
    assert isinstance(model.stages, ClockedStages)
    found = []
    for answer in model.stream(PIXELS, 800):
        found.append(answer.exit_index[0])
        model.stages.clock.pass_ms(200)
    assert found == [0, 1]


def test_a_deadline_before_exit_0_is_refused(clocked: Callable[[Sequence[float]], Model]) -> None:
    with pytest.raises(BudgetError, match=r"deadline 50 ms is too short for exit 0, for which 100 ms must be allowed"):
        clocked((100, 200, 400)).predict(PIXELS, deadline_ms=50)


@pytest.mark.parametrize("deadline", [0, -1, float("nan")])
def test_a_deadline_that_is_no_positive_number_is_refused_before_anything_is_measured(
    clocked: Callable[[Sequence[float]], Model], deadline: float
) -> None:
    model = clocked((100, 200, 400))
    with pytest.raises(BudgetError, match="must be a positive number"):
        model.predict(PIXELS, deadline_ms=deadline)
    assert isinstance(model.stages, ClockedStages)
    assert model.stages.ran == []


def test_stages_are_measured_once_per_number_of_images(clocked: Callable[[Sequence[float]], Model]) -> None:
    model = clocked((100, 200, 400))
    assert isinstance(model.stages, ClockedStages)
    model.predict(PIXELS, deadline_ms=1e6)
    before = len(model.stages.ran)
    model.predict(PIXELS, deadline_ms=1e6)
    assert len(model.stages.ran) == before + 3


def test_a_budget_in_milliseconds_is_solved_from_measured_times(clocked: Callable[[Sequence[float]], Model]) -> None:
    model = clocked((40, 80, 160))
    plan = model.plan("3ms", batch=40)
    assert plan.costs.at_exit[0] == pytest.approx(1)
    assert plan.costs.at_exit[2] > 7  # a stage takes as long for those who are left as for all
    assert (plan.budget, plan.costs.unit, plan.machine) == (3, "ms", "cafe" * 4)
    assert plan.expected.mean_cost <= 3
    assert len(model.predict(PIXELS, plan=plan)) == 40
    assert set(model.predict(PIXELS, budget="1ms").exit_index.tolist()) == {0}


def test_times_that_came_along_are_used_where_they_were_measured(
    bundle: Path, clocked: Callable[[Sequence[float]], Model]
) -> None:
    measured = clocked((40, 80, 160))
    table = measured.latencies()
    read = read_bundle(bundle)
    stored = json.dumps(replace(read.manifest, latency=table).to_json())
    read = replace(read, manifest=Manifest.from_json(json.loads(stored)))
    for place, runs in (("cafe" * 4, 0), ("dead" * 4, 3)):
        stages = ClockedStages(measured.stages, (40, 80, 160))
        model = Model(read, stages, "onnx", place, stages.clock)
        assert model.latencies().ms(1, 8) == pytest.approx(80)
        assert len(stages.ran) >= runs
        assert (not stages.ran) == (not runs)


def test_who_has_left_is_carried_on_where_taking_out_does_not_pay(clocked: Callable[[Sequence[float]], Model]) -> None:
    model = clocked((40, 80, 160))
    wanted = CLASSIFIER.predict(PIXELS, budget=middle())
    assert isinstance(model.stages, ClockedStages)
    for measured in (False, True):  # stages here take as long for one image as for many
        if measured:
            model.latencies()
        taken = 0

        def take(state: Any, rows: Any, before: Callable[..., Any] = model.stages.stages.take) -> Any:
            nonlocal taken
            taken += 1
            return before(state, rows)

        model.stages.take = take
        same(model.predict(PIXELS, budget=middle()), wanted)
        assert (taken == 0) == measured


def test_milliseconds_of_another_machine_are_refused(clocked: Callable[[Sequence[float]], Model]) -> None:
    model = clocked((40, 80, 160))
    plan = replace(model.plan("3ms", batch=40), machine="dead" * 4)
    with pytest.raises(ArtifactError, match=r"measured on machine deaddead, this is cafecafe.*solve it again here"):
        model.predict(PIXELS, plan=plan)


# ---- ways to be refused


@pytest.mark.parametrize(
    "asked",
    [
        {"budget": 1e6, "deadline_ms": 5}, {"budget": "1MMAC", "exit": 0}, {"deadline_ms": 5, "plan": "plan.json"},
        {"exit": 0, "plan": "plan.json"}, {"budget": 1, "deadline_ms": 2, "exit": 0, "plan": "plan.json"},
    ],
    ids=lambda asked: "+".join(asked),
)  # fmt: skip
def test_more_than_one_wish_is_refused(model: Model, asked: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=" and ".join(asked) + " together: give one of budget, deadline_ms, exit"):
        model.predict(PIXELS, **asked)


@pytest.mark.parametrize("k", [-1, 3, np.int64(-1), np.int64(3)])
def test_an_exit_the_network_does_not_have_is_refused(model: Model, k: int) -> None:
    with pytest.raises(ConfigError, match=f"exit {k}: this network has exits 0 … 2"):
        model.predict(PIXELS, exit=k)


def test_a_budget_below_exit_0_is_refused(model: Model) -> None:
    with pytest.raises(BudgetError, match="is below exit 0, the cheapest"):
        model.predict(PIXELS, budget=1.0)


def test_joules_are_refused(model: Model) -> None:
    with pytest.raises(BudgetError, match=r"budget '5mJ'.*a bundle measures ms and knows MACs"):
        model.predict(PIXELS, budget="5mJ")


def test_a_budget_without_a_calibration_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = copy_of(bundle, tmp_path)
    (copy / CALIBRATION).unlink()
    edit(copy, lambda stored: (stored.update(calibration=None), stored["files"].pop(CALIBRATION)))
    with pytest.raises(BudgetError, match="no calibration to solve a budget from; calibrate the model and export it"):
        offramp_runtime.load(copy, threads=1).predict(PIXELS, budget=middle())


def test_a_plan_of_another_model_is_refused(model: Model, tmp_path: Path) -> None:
    plan = make_classifier(seed=1).plan(middle())
    plan.save(tmp_path / "plan.json")
    for given in (plan, tmp_path / "plan.json"):
        with pytest.raises(ArtifactError, match=r"the plan was made for .*, this model is .*; solve it again"):
            model.predict(PIXELS, plan=given)


def test_a_plan_that_is_none_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        model.predict(PIXELS, plan=tmp_path / "nowhere.json")


def test_what_is_no_image_is_refused(model: Model, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text\.png: not an image"):
        model.predict(tmp_path / "text.png")
    with pytest.raises(DataError, match="this model takes uint8"):
        model.predict(PIXELS.astype(np.float32))


@pytest.mark.parametrize("threads", [0, -2, 4, True, 1.5, "2"])
def test_threads_that_no_call_can_have_are_refused(bundle: Path, threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    with pytest.raises(
        ConfigError, match=f"threads={threads!r}: a call is computed by at least 1 and at most 3, the cores"
    ):
        offramp_runtime.load(bundle, threads=threads)


@pytest.mark.parametrize("kind", ["torch-export", "executorch", "riddle"])
def test_a_bundle_it_cannot_run_is_refused_with_what_it_can(bundle: Path, tmp_path: Path, kind: str) -> None:
    with pytest.raises(
        ArtifactError, match=f"a bundle for {kind}, which this package does not run; export .* onnx, openvino"
    ):
        offramp_runtime.load(as_kind(bundle, tmp_path, kind))


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a bundle"):
        offramp_runtime.load(str(tmp_path))


# ---- names


def test_every_public_name_resolves_to_what_it_says() -> None:
    for name in offramp_runtime.__all__:
        assert getattr(offramp_runtime, name).__name__ == name
    assert set(dir(offramp_runtime)) == {*offramp_runtime.__all__, "__version__"}
    assert {MissingExtraError, ExitPlan} <= {getattr(offramp_runtime, name) for name in offramp_runtime.__all__}
    with pytest.raises(AttributeError, match="no attribute 'riddle'"):
        getattr(offramp_runtime, "riddle")  # noqa: B009 - what it does is what is tested
