import csv
import html
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.classifier import Classifier, Predictions
from offramp.data.preprocess import Images
from offramp.decide.accuracy import exit_accuracy
from offramp.decide.paper import paper_sweep
from offramp.engine.anytime import AnytimePredictor
from offramp.errors import BudgetError, DataError
from offramp.report.curves import curves_svg
from offramp.report.evaluation import (
    BudgetReport,
    DeadlineReport,
    Evaluation,
    as_json,
    budget_curve,
    evaluate,
    run_budget,
    run_deadline,
    spread_budgets,
)
from offramp.report.page import write_page
from offramp.report.tables import accuracy_table, budget_table, deadline_table, exit_table, sweep_table, to_csv
from offramp_runtime.budget import Outcome
from tiny import HALVES, OTHER_CLASSES, decoded, fix_times, make_classifier

SOURCE = HALVES.open()
TEST = decoded(SOURCE, "test")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """Its stages take 1, 2 and 3 ms for one image."""
    with pytest.MonkeyPatch.context() as patch:
        fix_times(patch, 1.0, 2.0, 3.0)
        classifier = make_classifier()
        for batch in (1, 48):
            classifier.measuring.times(batch)  # which remembers it
        classifier.measuring.latencies(48)
        return classifier


@pytest.fixture(scope="module")
def evaluation(classifier: Classifier) -> Evaluation:
    return evaluate(classifier, SOURCE)


BUDGET = BudgetReport("2 MMAC", "MAC", Outcome(0.875, 1.5e6, (0.5, 0.25, 0.25)), 1234.4)
IN_MS = BudgetReport("2 ms", "ms", Outcome(0.75, 1.25, (1.0, 0.0, 0.0)), 10)
DEADLINE = DeadlineReport(5.0, 0.9, 1.75, 0.995, 3.25)


# ---- evaluating


def test_an_evaluation_has_cost_time_and_accuracy_of_every_exit(classifier: Classifier, evaluation: Evaluation) -> None:
    logits = classifier.collect(TEST)
    assert (evaluation.source, evaluation.split, evaluation.images) == ("halves", "test", 48)
    assert evaluation.exits.macs == classifier.costs.at_exit
    assert evaluation.exits.ms == (1, 3, 6)
    assert evaluation.exits.accuracy == exit_accuracy(logits, TEST.labels)
    assert np.array_equal(evaluation.confidence, logits.softmax(-1).amax(-1).numpy())
    assert evaluation.correct.mean(axis=1) == pytest.approx(evaluation.exits.accuracy.top1)


def test_other_splits_can_be_evaluated_too(classifier: Classifier) -> None:
    done: list[int] = []
    assert evaluate(classifier, SOURCE, "calibrate", done.append).images == 32
    assert done == [32]


def test_a_data_set_of_other_classes_is_refused(classifier: Classifier) -> None:
    with pytest.raises(DataError, match="data set 'others' has 3 classes"):
        evaluate(classifier, OTHER_CLASSES.open())


# ---- budgets and deadlines


def test_a_budget_is_reported_as_it_was_really_spent(classifier: Classifier) -> None:
    budget = spread_budgets(classifier.costs)[1]
    found = run_budget(classifier, TEST, budget)
    answers = classifier.predict(TEST.images, budget=budget)
    shares = np.bincount(answers.exit_index, minlength=3) / 48
    assert found.budget == classifier.costs.format(budget)
    assert found.unit == "MAC"
    assert found.outcome.accuracy == pytest.approx((answers.label == TEST.labels).mean())
    assert found.outcome.mean_cost == pytest.approx(shares @ np.asarray(classifier.costs.at_exit))
    assert found.outcome.shares == pytest.approx(tuple(shares))
    assert found.images_per_s > 0


def test_a_budget_in_milliseconds_is_reported_in_milliseconds(classifier: Classifier) -> None:
    found = run_budget(classifier, TEST, "0.05ms")
    assert (found.budget, found.unit) == ("0.05 ms", "ms")
    assert found.outcome.mean_cost == pytest.approx(1e3 / found.images_per_s)  # as it was really spent


def test_a_deadline_is_reported_as_it_was_really_kept(classifier: Classifier) -> None:
    done: list[int] = []
    found = run_deadline(classifier, TEST, 60_000, done.append)
    assert (found.mean_exit, found.in_time) == (2, 1)
    assert found.accuracy == pytest.approx((classifier.predict(TEST.images).label == TEST.labels).mean())
    assert found.p50_ms is not None and 0 < found.p50_ms < 60_000
    assert len(done) == 48


def test_a_deadline_no_image_can_keep_is_reported_as_never_kept(classifier: Classifier) -> None:
    found = run_deadline(classifier, TEST, 0.001)
    assert found == DeadlineReport(0.001, 0, None, 0, None)
    assert deadline_table([found]).rows == (("0.00 ms", "0.00", "–", "–", "0.0"),)
    written = json.loads(json.dumps(as_json(evaluate(classifier, SOURCE), [], [found]), allow_nan=False))
    assert written["deadlines"] == [
        {"deadline_ms": 0.001, "accuracy": 0, "mean_exit": None, "in_time": 0, "p50_ms": None}
    ]


@pytest.mark.parametrize("nonsense", [0, -1.0, math.nan, "5"])
def test_a_deadline_that_is_no_time_is_refused(classifier: Classifier, nonsense: Any) -> None:
    with pytest.raises(BudgetError, match="must be a positive number of milliseconds"):
        run_deadline(classifier, TEST, nonsense)


def test_a_deadline_refused_in_between_is_an_answer_neither_right_nor_in_time(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_deadline(classifier, TEST, 60_000)
    answer = AnytimePredictor.predict
    asked = 0

    def refusing(predictor: AnytimePredictor[Any], image: Images, deadline_ms: float) -> Predictions:
        nonlocal asked
        asked += 1
        if asked % 2 == 0:
            raise BudgetError("too slow now")
        return answer(predictor, image, deadline_ms)

    monkeypatch.setattr(AnytimePredictor, "predict", refusing)
    found = run_deadline(classifier, TEST, 60_000)
    assert (found.mean_exit, found.in_time) == (2, 0.5)
    answered = classifier.predict(TEST.images[::2]).label == TEST.labels[::2]
    assert found.accuracy == pytest.approx(answered.sum() / len(TEST)) != whole.accuracy
    assert found.p50_ms is not None and 0 < found.p50_ms < 60_000


def test_the_budget_curve_goes_from_the_first_exit_to_the_last(classifier: Classifier, evaluation: Evaluation) -> None:
    assert classifier.calibration is not None
    curve = budget_curve(evaluation, classifier.calibration, classifier.costs, points=9)
    accuracy = evaluation.exits.accuracy.top1
    assert len(curve) == 9
    assert curve[0] == Outcome(accuracy[0], classifier.costs.at_exit[0], (1, 0, 0))
    assert curve[-1].accuracy == pytest.approx(accuracy[-1])
    assert curve[-1].shares == (0, 0, 1)


def test_chosen_budgets_lie_evenly_between_the_exits(classifier: Classifier) -> None:
    first, *_, last = classifier.costs.at_exit
    assert spread_budgets(classifier.costs, (0, 0.5, 1)) == pytest.approx([first, (first + last) / 2, last])


def test_all_figures_can_be_written_as_json(evaluation: Evaluation) -> None:
    found = json.loads(json.dumps(as_json(evaluation, [BUDGET, IN_MS], [DEADLINE])))
    assert [row["exit"] for row in found["exits"]] == [0, 1, 2]
    assert found["exits"][2]["top1"] == evaluation.exits.accuracy.top1[2]
    assert found["exits"][1]["ensemble_top5"] == evaluation.exits.accuracy.ensemble_top5[1]
    assert [(row["mean_cost"], row["unit"]) for row in found["budgets"]] == [(1.5e6, "MAC"), (1.25, "ms")]
    assert found["deadlines"] == [
        {"deadline_ms": 5, "accuracy": 0.9, "mean_exit": 1.75, "in_time": 0.995, "p50_ms": 3.25}
    ]


# ---- tables


def test_accuracy_alone_has_a_table_of_its_own(classifier: Classifier, evaluation: Evaluation) -> None:
    table, whole = accuracy_table(evaluation.exits.accuracy), exit_table(evaluation, classifier.costs)
    assert table.columns == ("exit", *whole.columns[3:])
    assert [row[1:] for row in table.rows] == [row[3:] for row in whole.rows]


def test_every_row_of_a_table_has_a_cell_for_every_column(classifier: Classifier, evaluation: Evaluation) -> None:
    scores = (evaluation.confidence, evaluation.correct)
    sweep = paper_sweep(scores, scores, classifier.costs)
    tables = {
        3: exit_table(evaluation, classifier.costs),
        2: budget_table([BUDGET, IN_MS]),
        1: deadline_table([DEADLINE]),
        39: sweep_table(sweep, classifier.costs),
    }
    for count, table in tables.items():
        assert len(table.rows) == count
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_the_exit_table_counts_exits_from_0_and_accuracy_in_percent(
    classifier: Classifier, evaluation: Evaluation
) -> None:
    first = exit_table(evaluation, classifier.costs).rows[0]
    accuracy = f"{100 * evaluation.exits.accuracy.top1[0]:.2f}"
    assert first[:4] == ("0", classifier.costs.format(classifier.costs.at_exit[0]), "1.00", accuracy)


def test_the_budget_table_shows_each_mean_cost_in_its_own_unit() -> None:
    rows = budget_table([BUDGET, IN_MS]).rows
    assert rows[0] == ("2 MMAC", "87.50", "1.5 MMAC", "1,234", "50 / 25 / 25")
    assert rows[1] == ("2 ms", "75.00", "1.25 ms", "10", "100 / 0 / 0")


def test_the_deadline_table_shows_how_often_it_was_kept() -> None:
    assert deadline_table([DEADLINE]).rows == (("5.00 ms", "90.00", "1.75", "3.25", "99.5"),)


def test_values_as_csv_can_be_read_back_in_full() -> None:
    rows = [{"name, of it": 'with "quotes"', "value": 1 / 3}, {"name, of it": "two\nlines", "value": math.inf}]
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [row["name, of it"] for row in read] == [row["name, of it"] for row in rows]
    assert [float(row["value"]) for row in read] == [1 / 3, math.inf]


# ---- the page


def page_of(path: Path, classifier: Classifier, evaluation: Evaluation, **what: object) -> str:
    assert classifier.calibration is not None
    curve = budget_curve(evaluation, classifier.calibration, classifier.costs, points=3)
    parts = {"curve": curve, "budgets": [BUDGET, IN_MS], "deadlines": [DEADLINE], **what}
    write_page(path, "Five & <six>", "a <note>", evaluation, classifier.costs, **parts)  # type: ignore[arg-type]
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(classifier: Classifier, evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(tmp_path_factory.mktemp("page") / "report.html", classifier, evaluation)


def test_the_page_needs_nothing_from_anywhere_else(page: str) -> None:
    namespaces = re.findall(r'xmlns(?::\w+)?="https?://[^"]*"', page)
    assert len(re.findall("https?://", page)) == len(namespaces)
    for loading in ("<script", "<link", "<img", "<iframe", "@import", "src=", "url(http", "javascript:"):
        assert loading not in page


def test_the_page_contains_every_cell_of_the_tables(page: str, classifier: Classifier, evaluation: Evaluation) -> None:
    for table in (
        exit_table(evaluation, classifier.costs), budget_table([BUDGET, IN_MS]), deadline_table([DEADLINE]),
    ):  # fmt: skip
        for cell in (*table.columns, *(cell for row in table.rows for cell in row)):
            assert f">{html.escape(cell)}<" in page


def test_the_page_draws_the_curves(page: str) -> None:
    assert page.count("<svg") == page.count("</svg>") == 1


def test_text_on_the_page_is_escaped(page: str) -> None:
    assert "<h1>Five &amp; &lt;six&gt;</h1>" in page
    assert "a &lt;note&gt;" in page


def test_the_same_figures_make_the_same_page(
    page: str, classifier: Classifier, evaluation: Evaluation, tmp_path: Path
) -> None:
    assert page_of(tmp_path / "again.html", classifier, evaluation) == page


def test_a_page_without_budgets_or_deadlines_leaves_their_tables_out(
    classifier: Classifier, evaluation: Evaluation, tmp_path: Path
) -> None:
    page = page_of(tmp_path / "page.html", classifier, evaluation, curve=[], budgets=[], deadlines=[])
    assert page.count("<table>") == 1
    assert "Budgeted" not in page.split("</svg>")[1]


def test_a_page_of_one_exit_can_be_drawn(classifier: Classifier, evaluation: Evaluation, tmp_path: Path) -> None:
    accuracy = exit_accuracy(classifier.collect(TEST)[:1], TEST.labels)
    exits = replace(evaluation.exits, macs=(1e6,), ms=(1.0,), accuracy=accuracy)
    alone = replace(evaluation, exits=exits)
    assert "<svg" in page_of(tmp_path / "page.html", classifier, alone, curve=[], budgets=[])


@pytest.mark.parametrize(("top1", "told"), [((0.5, 0.6, 0.7), True), ((0.9, 0.8, 0.7), False)])
def test_a_plot_tells_of_interpolation_only_where_it_leads_to_something_better(
    evaluation: Evaluation, top1: tuple[float, ...], told: bool
) -> None:
    exits = replace(evaluation.exits, accuracy=replace(evaluation.exits.accuracy, top1=top1))
    assert ("interpolated" in curves_svg(replace(evaluation, exits=exits), [], [])) == told
