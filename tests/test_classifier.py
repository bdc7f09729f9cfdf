from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from offramp.classifier import Classifier, Predictions, load
from offramp.data.holdout import Holdout
from offramp.data.preprocess import Preprocessing, open_image
from offramp.decide.answers import RunningEnsemble
from offramp.errors import ArtifactError, BudgetError, ConfigError, DataError
from offramp.measure.energy import Rapl
from offramp.measure.latency import StageTimes
from offramp.measure.macs import count_macs, direct_macs, staged_macs
from offramp_runtime.plan import ExitPlan
from tiny import (
    CLASSES,
    HALVES,
    OTHER_CLASSES,
    PREPROCESSING,
    decoded,
    fix_times,
    images,
    make_classifier,
    make_net,
    stage_times,
    unlabelled,
    write_images,
)

PIXELS = images(20)
CLASSIFIER = make_classifier()
LOGITS = CLASSIFIER.net(PREPROCESSING.normalize(torch.from_numpy(PIXELS))).detach().numpy()
"""Of all exits, (K, N, C)."""
TOLERANCE = 1e-5 * float(np.abs(LOGITS).max())


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """A classifier whose stages were measured to take 1, 2 and 100,000 ms, for any number of images."""
    fix_times(monkeypatch, 1.0, 2.0, 1e5)
    return make_classifier()


def same(found: Predictions, expected: Predictions) -> None:
    assert found.label.tolist() == expected.label.tolist()
    assert found.exit_index.tolist() == expected.exit_index.tolist()
    assert found.logits == pytest.approx(expected.logits, abs=TOLERANCE)


def middle(place: float = 0.5) -> float:
    first, last = CLASSIFIER.costs.at_exit[0], CLASSIFIER.costs.at_exit[-1]
    return first + place * (last - first)


# ---- ways to ask


def test_by_default_everything_is_answered_at_the_last_exit() -> None:
    found = CLASSIFIER.predict(PIXELS)
    assert found.exit_index.tolist() == [2] * 20
    assert found.logits == pytest.approx(LOGITS[2], abs=TOLERANCE)
    assert found.label.tolist() == LOGITS[2].argmax(-1).tolist()


@pytest.mark.parametrize("k", [0, 1, 2])
def test_an_exit_answers_everything_there_and_is_reached_directly(k: int) -> None:
    with count_macs(CLASSIFIER.net) as count:
        found = CLASSIFIER.predict(PIXELS, exit=k)
    assert found.exit_index.tolist() == [k] * 20
    assert found.logits == pytest.approx(LOGITS[k], abs=TOLERANCE)
    assert count.macs == 20 * direct_macs(CLASSIFIER.net).at_exit[k]


@pytest.mark.parametrize("place", [0, 0.2, 0.5, 0.9, 1])
def test_a_budget_is_kept_on_the_images_it_was_calibrated_with(place: float) -> None:
    held_out = decoded(HALVES.open(), "calibrate")
    with count_macs(CLASSIFIER.net) as count:
        found = CLASSIFIER.predict(held_out.images, budget=middle(place))
    spent = np.asarray(CLASSIFIER.costs.at_exit)[found.exit_index].sum()
    assert count.macs == spent  # what the exits say is what was computed
    assert spent <= middle(place) * len(held_out) * (1 + 1e-9)


def test_a_budget_can_be_a_number_or_text_with_a_unit() -> None:
    value = round(middle())
    expected = CLASSIFIER.predict(PIXELS, budget=value)
    assert len(set(expected.exit_index.tolist())) > 1
    for text in (f"{value}MAC", f"{value / 1e6!r} MMAC", str(value), f"{value / 1e3!r}kmac"):
        same(CLASSIFIER.predict(PIXELS, budget=text), expected)


def test_a_budget_in_milliseconds_is_solved_from_measured_times(clocked: Classifier) -> None:
    plan = clocked.plan("0.05ms", batch=20)
    assert (plan.budget, plan.costs.unit) == (0.05, "ms")
    # Whom nobody joins pays for a stage alone.
    assert plan.costs.at_exit == pytest.approx((1 / 20, 1 / 20 + 2, 1 / 20 + 100002))
    assert plan.expected.mean_cost == pytest.approx(1 / 20)
    assert clocked.plan("6s", batch=20).costs.at_exit == pytest.approx((1 / 20, 3 / 20, 100003 / 20))
    assert set(clocked.predict(PIXELS, budget="0.05ms").exit_index.tolist()) == {0}
    assert set(clocked.predict(PIXELS, budget="6s").exit_index.tolist()) == {2}


def test_a_plan_in_milliseconds_belongs_to_the_machine_they_were_measured_on(clocked: Classifier) -> None:
    plan = clocked.plan("0.05ms", batch=20)
    assert len(clocked.predict(PIXELS, plan=plan)) == 20
    with pytest.raises(ArtifactError, match=r"measured on machine cafecafe.*solve it again here"):
        clocked.predict(PIXELS, plan=replace(plan, machine="cafe" * 4))


@pytest.mark.parametrize(("batch", "measured"), [(None, 256), (20, 20), (1000, 250)])
def test_milliseconds_are_those_of_the_batches_that_will_run(
    clocked: Classifier, batch: int | None, measured: int
) -> None:
    assert clocked.plan("10s", batch).costs.at_exit[0] == pytest.approx(1 / measured)


def test_a_budget_in_milliseconds_pays_for_batches_that_shrink(clocked: Classifier) -> None:
    # A stage takes as long for one image as for many: each that goes on alone pays all of it.
    plan = clocked.plan("0.1ms", batch=20)
    inside = 1 - plan.expected.shares[0]
    assert plan.expected.mean_cost == pytest.approx(1 / 20 + (2 / 20 if inside > 1 / 20 else 2 * inside))
    assert plan.expected.mean_cost <= 0.1


def test_batches_are_regrouped_where_a_measured_table_says_that_it_pays(clocked: Classifier) -> None:
    assert clocked.measuring.regroup(20)(1, 19, 20)  # nothing is known yet
    clocked.plan("0.05ms", batch=20)
    assert not clocked.measuring.regroup(20)(1, 1, 20)  # a stage takes as long for one as for twenty


def test_joules_that_cannot_be_measured_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rapl.__init__, "__defaults__", (tmp_path,))
    with pytest.raises(BudgetError, match=r"joules cannot be measured here.*give the budget in MMAC or ms"):
        CLASSIFIER.predict(PIXELS, budget="5mJ")


def test_a_budget_in_joules_is_solved_from_measured_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = 0.0

    class Rising:
        def joules(self) -> float:
            nonlocal drawn
            drawn += 0.001
            return drawn

    monkeypatch.setattr("offramp.classifier.tables.open_meter", lambda device: Rising())
    monkeypatch.setattr("offramp.measure.energy._RUN_S", 0.0)
    classifier = make_classifier()
    plan = classifier.plan("1J", batch=2)
    assert (plan.costs.unit, plan.machine) == ("J", classifier.running.machine)
    assert plan.costs.at_exit == pytest.approx((0.0005, 0.001, 0.0015))
    assert classifier.measuring.joules(2) is classifier.measuring.joules(2)


def test_a_deadline_is_answered_at_the_deepest_exit_that_fits(clocked: Classifier) -> None:
    same(clocked.predict(PIXELS, deadline_ms=60_000), CLASSIFIER.predict(PIXELS, exit=1))


def test_a_deadline_before_exit_0_is_refused(clocked: Classifier) -> None:
    with pytest.raises(BudgetError, match=r"deadline 0\.5 ms is too short for exit 0, for which 1 ms must be allowed"):
        clocked.predict(PIXELS, deadline_ms=0.5)


@pytest.mark.parametrize("deadline", [0, -3, float("nan"), "5", True])
def test_a_deadline_that_is_no_positive_number_is_refused(clocked: Classifier, deadline: Any) -> None:
    with pytest.raises(BudgetError, match="must be a positive number"):
        clocked.predict(PIXELS, deadline_ms=deadline)


def test_stages_are_measured_once_per_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure(_net: object, pixels: Callable[[], torch.Tensor], _repeats: int) -> StageTimes:
        measured.append(len(pixels()))
        return stage_times(1, 1, 1)

    monkeypatch.setattr("offramp.classifier.measuring.time_stages", measure)
    classifier = make_classifier(calibrated=False)
    for count in (2, 2, 3, 2):
        classifier.measuring.times(count)
    assert measured == [2, 3]


def test_the_anytime_predictor_answers_as_the_classifier_does() -> None:
    predictor = make_classifier().anytime()
    same(predictor.predict(PIXELS[:1], 60_000), CLASSIFIER.predict(PIXELS[:1], exit=2))


def test_the_anytime_predictor_takes_another_rule_and_confidence(clocked: Classifier) -> None:
    predictor = clocked.anytime("running-ensemble", 0.9)
    assert (predictor.rule, predictor.confidence) == (RunningEnsemble(), 0.9)


def test_real_stages_can_be_measured() -> None:
    times = make_classifier(calibrated=False).measuring.times(2)
    assert (times.batch_size, len(times.ms)) == (2, 3)


def test_a_plan_gives_what_its_budget_gives(tmp_path: Path) -> None:
    expected = CLASSIFIER.predict(PIXELS, budget=middle())
    plan = CLASSIFIER.plan(middle())
    plan.save(tmp_path / "plan.json")
    for given in (plan, tmp_path / "plan.json", str(tmp_path / "plan.json")):
        same(CLASSIFIER.predict(PIXELS, plan=given), expected)


@pytest.mark.parametrize("asked", [{}, {"exit": 1}, {"budget": middle()}, {"budget": middle(0.2)}], ids=str)
def test_a_stream_of_batches_is_answered_as_all_images_at_once(asked: dict[str, Any]) -> None:
    classifier = make_classifier()
    classifier.stream_batch_size = 6
    parts = list(classifier.predict_stream((PIXELS[first : first + 8] for first in range(0, 20, 8)), **asked))
    same(Predictions.join(parts), CLASSIFIER.predict(PIXELS, **asked))


def test_samples_can_be_streamed_by_a_stored_plan(tmp_path: Path) -> None:
    CLASSIFIER.plan(middle()).save(tmp_path / "plan.json")
    parts = list(CLASSIFIER.predict_stream(unlabelled(PIXELS), plan=tmp_path / "plan.json"))
    same(Predictions.join(parts), CLASSIFIER.predict(PIXELS, budget=middle()))


def test_a_stream_is_refused_before_anything_is_read() -> None:
    def unread() -> Iterator[NDArray[np.uint8]]:
        raise AssertionError
        yield PIXELS

    with pytest.raises(ConfigError, match="budget and exit together: give one of budget, exit, plan"):
        CLASSIFIER.predict_stream(unread(), budget=1e6, exit=0)
    with pytest.raises(BudgetError, match="below exit 0"):
        CLASSIFIER.predict_stream(unread(), budget=1)


def test_streaming_yields_a_better_answer_at_each_exit() -> None:
    answers = list(CLASSIFIER.stream(PIXELS))
    assert len(answers) == 3
    for k, answer in enumerate(answers):
        same(answer, CLASSIFIER.predict(PIXELS, exit=k))


def test_streaming_stops_before_the_deadline(clocked: Classifier) -> None:
    assert [answer.exit_index[0] for answer in clocked.stream(PIXELS, 60_000)] == [0, 1]
    with pytest.raises(BudgetError, match="too short"):
        next(clocked.stream(PIXELS, 0.1))


# ---- ways to be refused


@pytest.mark.parametrize(
    "asked",
    [
        {"budget": 1e6, "deadline_ms": 5}, {"budget": "1MMAC", "exit": 0}, {"deadline_ms": 5, "plan": "plan.json"},
        {"exit": 0, "plan": "plan.json"}, {"budget": 1, "deadline_ms": 2, "exit": 0, "plan": "plan.json"},
    ],
    ids=lambda asked: "+".join(asked),
)  # fmt: skip
def test_more_than_one_wish_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=" and ".join(asked) + " together: give one of budget, deadline_ms, exit"):
        CLASSIFIER.predict(PIXELS, **asked)


@pytest.mark.parametrize("k", [-1, 3, 100])
def test_an_exit_the_network_does_not_have_is_refused(k: int) -> None:
    with pytest.raises(ConfigError, match=f"exit {k}: this network has exits 0 … 2"):
        CLASSIFIER.predict(PIXELS, exit=k)


@pytest.mark.parametrize("k", [True, 1.0, "1"])
def test_an_exit_that_is_no_whole_number_is_refused(k: Any) -> None:
    with pytest.raises(ConfigError, match=f"exit={k!r}: this network has exits 0 … 2; give one of these numbers"):
        CLASSIFIER.predict(PIXELS, exit=k)


def test_a_budget_without_a_calibration_names_the_command_that_makes_one() -> None:
    plain = make_classifier(calibrated=False)
    for ask in (lambda: plain.predict(PIXELS, budget=1e9), lambda: plain.plan(1e9)):
        with pytest.raises(BudgetError, match="offramp calibrate MODEL --data NAME"):
            ask()


def test_a_budget_below_exit_0_is_refused() -> None:
    with pytest.raises(BudgetError, match="is below exit 0, the cheapest"):
        CLASSIFIER.predict(PIXELS, budget=1.0)


def test_without_preprocessing_only_the_network_itself_works() -> None:
    blind = Classifier(make_net(), CLASSES, None)
    assert blind.net(torch.zeros(2, 1, 16, 16)).shape == (3, 2, 4)
    for ask in (
        lambda: blind.predict(PIXELS), lambda: blind.predict(PIXELS, deadline_ms=5), lambda: blind.collect(unlabelled(PIXELS)),
        lambda: blind.measuring.times(1), lambda: next(blind.stream(PIXELS)),
    ):  # fmt: skip
        with pytest.raises(DataError, match="does not know what its images went through"):
            ask()


def test_a_calibration_of_other_weights_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"the calibration was made for .*calibrate again"):
        Classifier(make_net(seed=1), CLASSES, PREPROCESSING, calibration=CLASSIFIER.calibration)


def test_a_calibration_of_other_preprocessing_is_refused() -> None:
    other = Preprocessing(16, (0.4,), (0.3,))
    with pytest.raises(ArtifactError, match="the calibration was made for"):
        Classifier(make_net(), CLASSES, other, calibration=CLASSIFIER.calibration)


def test_a_plan_of_another_model_is_refused(tmp_path: Path) -> None:
    plan: ExitPlan = make_classifier(seed=1).plan(1e9)
    plan.save(tmp_path / "plan.json")
    for given in (plan, tmp_path / "plan.json"):
        with pytest.raises(ArtifactError, match=f"made for {plan.identity[:8]}, this model is .*solve it again"):
            CLASSIFIER.predict(PIXELS, plan=given)


@pytest.mark.parametrize("classes", [("a", "b"), ("a", "b", "c", "c"), tuple("abcde")])
def test_class_names_must_be_as_many_as_the_networks_classes_and_distinct(classes: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="distinct class names for a network of 4 classes"):
        Classifier(make_net(), classes, PREPROCESSING)


def test_preprocessing_must_have_the_networks_channels() -> None:
    with pytest.raises(ConfigError, match="preprocessing of 3 channels for a network of 1"):
        Classifier(make_net(), CLASSES, Preprocessing(16, (0.5,) * 3, (0.5,) * 3))


# ---- what images may be


def test_paths_pictures_and_arrays_of_the_same_images_get_the_same_answers(tmp_path: Path) -> None:
    paths = write_images(tmp_path, 5)
    expected = CLASSIFIER.predict(PIXELS[:5])
    for given in (paths, [str(path) for path in paths], [open_image(path) for path in paths], tuple(paths)):
        same(CLASSIFIER.predict(given), expected)


def test_a_single_image_need_not_be_in_a_list(tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    expected = CLASSIFIER.predict(PIXELS[:1])
    for given in (path, str(path), open_image(path), [path]):
        same(CLASSIFIER.predict(given), expected)


@pytest.mark.parametrize(
    "asked", [{}, {"exit": 0}, {"budget": 1e9}, {"deadline_ms": 1e6}], ids=lambda asked: "+".join(asked) or "default"
)
@pytest.mark.parametrize("nothing", [[], PIXELS[:0]], ids=["list", "array"])
def test_no_images_get_no_answers(asked: dict[str, Any], nothing: Any) -> None:
    found = CLASSIFIER.predict(nothing, **asked)
    assert len(found) == 0
    assert found.logits.shape == found.probabilities.shape == (0, 4)
    assert found.label.dtype == found.exit_index.dtype == np.int64


@pytest.mark.parametrize("asked", [{}, {"exit": 1}, {"budget": middle()}], ids=lambda asked: "+".join(asked))
def test_many_images_are_answered_in_their_order(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Classifier, "batch_size", 64)
    many = images(150, seed=3)
    done: list[int] = []
    found = CLASSIFIER.predict(many, **asked, report=done.append)
    assert done == [64, 128, 150]
    same(
        found, Predictions.join([CLASSIFIER.predict(many[first : first + 25], **asked) for first in range(0, 150, 25)])
    )


def test_an_array_of_another_shape_or_type_is_refused() -> None:
    wrong: list[NDArray[Any]] = [PIXELS[0], PIXELS[:, :8], PIXELS.astype(np.float32)]
    for array in wrong:
        with pytest.raises(DataError, match="this model takes uint8"):
            CLASSIFIER.predict(array)


# ---- what comes back


@pytest.mark.parametrize(
    "asked",
    [{}, {"exit": 0}, {"budget": middle()}, {"deadline_ms": 1e6}],
    ids=lambda asked: "+".join(asked) or "default",
)
def test_predictions_have_the_promised_types_and_agree_with_themselves(asked: dict[str, Any]) -> None:
    found = CLASSIFIER.predict(PIXELS, **asked)
    assert len(found) == 20
    assert (found.label.shape, found.exit_index.shape, found.probability.shape) == ((20,),) * 3
    assert found.logits.shape == found.probabilities.shape == (20, 4)
    assert found.label.dtype == found.exit_index.dtype == np.int64
    assert found.probability.dtype == found.logits.dtype == found.probabilities.dtype == np.float32
    assert found.probabilities.sum(axis=1) == pytest.approx(np.ones(20), abs=1e-6)
    assert found.probabilities.argmax(axis=1).tolist() == found.label.tolist()
    assert found.probabilities.max(axis=1) == pytest.approx(found.probability, abs=1e-6)


def test_probabilities_of_huge_logits_do_not_overflow() -> None:
    found = Predictions.at(np.array([[1e30, 0.0], [-1e30, 0.0]], np.float32), np.array([0, 1]))
    assert found.probabilities.tolist() == [[1, 0], [0, 1]]


def test_joined_predictions_stand_one_after_the_other() -> None:
    parts = [CLASSIFIER.predict(PIXELS[:3], exit=0), CLASSIFIER.predict(PIXELS[3:4], exit=2)]
    joined = Predictions.join(parts)
    assert joined.exit_index.tolist() == [0, 0, 0, 2]
    assert joined.label.tolist() == [*parts[0].label, *parts[1].label]
    assert joined.logits.shape == (4, 4)


# ---- what it knows


def test_costs_are_the_macs_of_the_stages() -> None:
    assert CLASSIFIER.costs == staged_macs(CLASSIFIER.net)
    assert CLASSIFIER.costs.unit == "MAC"


def test_the_network_is_in_eval_mode_whatever_it_was_before() -> None:
    assert not Classifier(make_net().train(), CLASSES, PREPROCESSING).net.training


def test_calibrating_keeps_the_scores_of_the_held_out_images() -> None:
    source = HALVES.open(holdout=Holdout(3))
    classifier = make_classifier(calibrated=False)
    done: list[int] = []
    calibration = classifier.calibrate(source, done.append)
    held_out = decoded(source, "calibrate")
    logits = classifier.collect(held_out)
    assert classifier.calibration is calibration
    assert np.array_equal(calibration.confidence, logits.softmax(-1).amax(-1).numpy())
    assert np.array_equal(calibration.correct, logits.argmax(-1).numpy() == held_out.labels)
    assert np.array_equal(calibration.indices, source.calibrate_indices)
    assert (calibration.source, calibration.seed) == ("halves", 3)
    assert calibration.identity == classifier.identity
    assert done == [32]


def test_a_data_set_of_other_classes_is_refused_for_calibration() -> None:
    with pytest.raises(DataError, match=r"'others' has 3 classes \(a, …\), this model 4 \(left, …\)"):
        make_classifier(calibrated=False).calibrate(OTHER_CLASSES.open())


def test_collecting_gives_the_logits_of_all_exits() -> None:
    assert CLASSIFIER.collect(unlabelled(PIXELS)).numpy() == pytest.approx(LOGITS, abs=TOLERANCE)


def test_a_change_of_weights_makes_calibration_and_plans_foreign() -> None:
    classifier = make_classifier()
    plan = classifier.plan(middle())
    with torch.no_grad():
        next(classifier.net.parameters()).mul_(1.5)
    with pytest.raises(ArtifactError, match="the plan was made for"):
        classifier.predict(PIXELS, plan=plan)
    with pytest.raises(ArtifactError, match=r"the calibration was made for .* calibrate again"):
        classifier.predict(PIXELS, budget=middle())
    classifier.calibrate(HALVES.open())
    assert len(classifier.predict(PIXELS, budget=middle())) == 20


def test_the_shipped_model_of_before_images_were_resized_still_has_its_calibration() -> None:
    shipped = load("cifar10")
    assert shipped.calibration is not None
    assert shipped.calibration.identity == shipped.identity
    assert shipped.plan("10MMAC").expected.accuracy > 0.8


def test_a_model_to_be_stored_in_half_precision_already_answers_as_stored(tmp_path: Path) -> None:
    classifier = Classifier(make_net(), CLASSES, PREPROCESSING, storage="fp16")
    classifier.save(tmp_path / "model")
    assert load(tmp_path / "model").predict(PIXELS).logits == pytest.approx(classifier.predict(PIXELS).logits, abs=1e-5)


def test_images_of_another_size_than_the_costs_are_quoted_for_are_refused() -> None:
    with pytest.raises(ConfigError, match="preprocessing to 32 pixels for a network priced at 16"):
        Classifier(make_net(), CLASSES, Preprocessing(32, (0.4,), (0.25,)))


def test_what_was_quantised_is_part_of_the_identity_in_int8(tmp_path: Path) -> None:
    classifier, graph = make_classifier(), tmp_path / "int8.onnx"
    whole, found = classifier.identity, set()
    for content in (b"one", b"the other"):
        graph.write_bytes(content)
        classifier.running.int8_graph = graph
        found.add(classifier.identity_at("int8"))
        assert classifier.identity == whole
    assert len(found) == 2
    graph.unlink()
    with pytest.raises(ArtifactError, match=r"int8\.onnx: cannot be read .*: offramp calibrate MODEL --precision int8"):
        classifier.identity_at("int8")


def test_a_deadline_is_answered_with_the_weights_of_now() -> None:
    classifier = make_classifier().use("eager")
    first = classifier.predict(PIXELS[:1], deadline_ms=60_000)
    with torch.no_grad():
        for weights in classifier.net.parameters():
            weights.mul_(1.1)
    second = classifier.predict(PIXELS[:1], deadline_ms=60_000)
    same(second, classifier.predict(PIXELS[:1], exit=2))
    assert not np.allclose(first.logits, second.logits)


@torch.inference_mode()
def test_a_model_may_be_loaded_inside_inference_mode(tmp_path: Path) -> None:
    CLASSIFIER.save(tmp_path / "model")
    inside = load(tmp_path / "model", runtime="eager")
    same(inside.predict(PIXELS), CLASSIFIER.predict(PIXELS))
    with torch.inference_mode(False):
        same(inside.predict(PIXELS, budget=middle()), CLASSIFIER.predict(PIXELS, budget=middle()))


def test_a_network_built_inside_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        net = make_net()
    with pytest.raises(ConfigError, match=r"built inside torch.inference_mode\(\); build it outside"):
        Classifier(net, CLASSES, None)
