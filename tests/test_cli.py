import contextlib
import errno
import io
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import typer

import offramp as package
from offramp.catalog import entries
from offramp.classifier import Classifier, Predictions, load
from offramp.classifier.folder import CALIBRATION, save
from offramp.cli.demo import _is_demo
from offramp.cli.device import pick_device
from offramp.cli.main import COMMANDS, GROUPS
from offramp.data.preprocess import Images, Preprocessing
from offramp.engine.anytime import AnytimePredictor
from offramp.errors import BudgetError, ConfigError
from offramp.measure.macs import direct_macs, staged_macs
from offramp_runtime.costs import parse_budget
from offramp_runtime.plan import ExitPlan
from pictures import write_classes
from tiny import CLASSES, CONFIG, PREPROCESSING, install, make_classifier, make_net, offramp, write_images

CHECKPOINT = Path(__file__).parent / "oracles" / "msdnet_even.pth.tar"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module", autouse=True)
def _catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    shelf = tmp_path_factory.mktemp("shipped")
    save(make_classifier(), shelf / "halves-model")
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        patch.setattr("offramp.classifier.entry.SHIPPED", shelf)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training."""
    out = tmp_path_factory.mktemp("runs") / "halves"
    assert offramp("train", "halves", "--out", out, "--set", "learning_rate=0.05", "--device", "cpu") == 0
    return out


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated model whose images leave at all exits."""
    folder = tmp_path_factory.mktemp("models") / "model"
    save(make_classifier(), folder)
    return folder


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return write_images(tmp_path, 6)


def middle_budget(classifier: Classifier) -> str:
    return f"{(classifier.costs.at_exit[0] + classifier.costs.at_exit[-1]) / 2e6}MMAC"


def printed_json(capsys: Capture) -> Any:
    return json.loads(capsys.readouterr().out)


# ---- train


def test_a_training_can_be_followed_line_by_line_and_ends_with_what_to_do_next(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "run"
    assert offramp("train", "halves", "--out", out, "--set", "epochs=2", "--set", "batch_size=32") == 0
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.err.splitlines()]  # stderr is no terminal here: no bar
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all(len(line["top1"]) == 3 for line in lines)
    assert f"trained {out / 'model'}; top-1 % per exit on held-out images: " in said.out
    assert said.out.splitlines()[-1] == f"next: offramp evaluate {out}"
    assert load(out).about["recipe"]["batch_size"] == 32


def test_a_finished_training_is_resumed_without_doing_anything(run: Path, capsys: Capture) -> None:
    before = load(run).identity
    assert offramp("train", "halves", "--out", run, "--set", "learning_rate=0.05", "--resume") == 0
    assert capsys.readouterr().err == ""
    assert load(run).identity == before


def test_runs_go_to_the_folder_of_the_recipe_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert offramp("train", "halves", "--data-root", tmp_path) == 0
    assert (tmp_path / "runs" / "halves" / "model" / "model.json").exists()


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [str(pick_device(name)) for name in ("auto", "cuda", "cuda:1", "cpu")] == ["cuda", "cuda", "cuda:1", "cpu"]
    for name, said in (("cuda:2", "has 2 CUDA devices"), ("cuda:first", "give cpu, cuda, cuda:N or auto")):
        with pytest.raises(ConfigError, match=said):
            pick_device(name)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert str(pick_device("auto")) == "cpu"
    with pytest.raises(ConfigError, match="no CUDA device"):
        pick_device("cuda")


# ---- calibrate


def test_calibrating_again_gives_the_calibration_training_gave(run: Path, tmp_path: Path, capsys: Capture) -> None:
    copy = Path(shutil.copytree(run / "model", tmp_path / "model"))
    (copy / CALIBRATION).unlink()
    assert offramp("calibrate", copy) == 0
    said = capsys.readouterr()
    assert f"calibrated {copy} in fp32 on 32 held-out images of halves" in said.out
    assert said.err == ""
    found, expected = load(copy).calibration, load(run).calibration
    assert found is not None
    assert expected is not None
    assert np.array_equal(found.confidence, expected.confidence)
    assert np.array_equal(found.indices, expected.indices)


def test_the_budget_that_calibrating_proposes_can_be_given_as_it_stands(model: Path, capsys: Capture) -> None:
    assert offramp("calibrate", model) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[-2] == "--budget"
    value, unit = parse_budget(words[-1])
    assert unit == "MAC"
    assert load(model).plan(value)


def test_a_model_that_may_have_seen_the_hold_out_is_calibrated_with_a_warning(tmp_path: Path, capsys: Capture) -> None:
    classifier = make_classifier(calibrated=False)
    classifier.about = {}
    save(classifier, tmp_path / "model")
    assert offramp("calibrate", tmp_path / "model", "--data", "halves") == 0
    assert "does not say that its training left the hold-out of 'halves' (seed 0) alone" in capsys.readouterr().err


def test_other_data_than_the_trainings_is_calibrated_on_only_if_the_model_has_not_seen_it(
    tmp_path: Path, capsys: Capture
) -> None:
    classifier = make_classifier(calibrated=False)
    classifier.about = {"source": {"name": "pets"}}
    save(classifier, tmp_path / "model")
    assert offramp("calibrate", tmp_path / "model", "--data", "halves") == 2
    assert "was trained on 'pets', and nothing tells whether it has seen" in capsys.readouterr().err
    assert not (tmp_path / "model" / "calibration.safetensors").exists()
    assert offramp("calibrate", tmp_path / "model", "--data", "halves", "--unseen") == 0
    assert "32 images held out are few to solve budgets from" in capsys.readouterr().out


def test_a_model_of_a_folder_asks_for_that_folder(tmp_path: Path, capsys: Capture) -> None:
    classifier = make_classifier()
    classifier.about = {"source": {"name": "pets"}}
    save(classifier, tmp_path / "model")
    assert offramp("evaluate", tmp_path / "model") == 2
    assert "was trained on a folder of yours, 'pets'; name it with --data" in capsys.readouterr().err


# ---- evaluate


def test_evaluating_prints_every_exit_and_three_budgets(run: Path, capsys: Capture) -> None:
    assert offramp("evaluate", run) == 0
    said = capsys.readouterr().out
    assert re.search(r"Anytime: every exit on 48 test images of halves \(\w+, fp32, \d+ threads?\)", said)
    assert "Budgeted: images leave as early as they can" in said
    assert len(re.findall(r"MAC .* / ", said)) == 3


def test_evaluating_as_json_gives_everything_that_was_asked_for(model: Path, capsys: Capture) -> None:
    budget = middle_budget(load(model))
    asked = ("--budget", budget, "--budget", "1s", "--deadline-ms", "60000", "--sweep", "paper", "--json")
    assert offramp("evaluate", model, *asked) == 0
    found = printed_json(capsys)
    assert (found["source"], found["split"], found["images"]) == ("halves", "test", 48)
    assert len(found["exits"]) == 3
    assert [one["unit"] for one in found["budgets"]] == ["MAC", "ms"]
    assert [one["deadline_ms"] for one in found["deadlines"]] == [60000]
    assert [round(20 * point["r"]) for point in found["sweep"]] == list(range(1, 40))


def test_deadlines_and_the_sweep_have_tables_of_their_own(model: Path, capsys: Capture) -> None:
    assert offramp("evaluate", model, "--deadline-ms", "60000", "--sweep", "paper") == 0
    said = capsys.readouterr().out
    assert "Deadlines: one image a call" in said
    assert "Published sweep: shares r^k" in said


@pytest.mark.parametrize(
    ("sweep", "first", "rows"), [((), "exit,macs,ms,top1", 3), (("--sweep", "paper"), "r,calibrate", 39)]
)
def test_the_table_can_be_written_as_csv(
    model: Path, tmp_path: Path, capsys: Capture, sweep: tuple[str, ...], first: str, rows: int
) -> None:
    assert offramp("evaluate", model, *sweep, "--csv", tmp_path / "table.csv") == 0
    assert f"wrote {tmp_path / 'table.csv'}" in capsys.readouterr().err
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert lines[0].startswith(first)
    assert len(lines) == 1 + rows


def test_a_page_can_be_written_beside_the_json(model: Path, tmp_path: Path, capsys: Capture) -> None:
    assert offramp("evaluate", model, "--page", tmp_path / "page.html", "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["images"] == 48
    page = (tmp_path / "page.html").read_text()
    assert "Anytime: every exit" in page
    assert load(model).identity[:12] in page


def test_a_model_without_calibration_is_evaluated_without_budgets(tmp_path: Path, capsys: Capture) -> None:
    save(make_classifier(calibrated=False), tmp_path / "model")
    assert offramp("evaluate", tmp_path / "model", "--page", tmp_path / "page.html") == 0
    said = capsys.readouterr()
    assert "Budgeted" not in said.out
    assert "offramp calibrate MODEL" in said.err


def test_ten_crops_of_each_image_can_be_evaluated_too(tmp_path: Path, capsys: Capture) -> None:
    pictures = write_classes(tmp_path / "pictures" / "train", a=3, b=3, c=3, d=3)
    shutil.copytree(pictures, pictures.with_name("val"))
    model = Classifier(make_net(), ("a", "b", "c", "d"), replace(PREPROCESSING, resize=20))
    save(model, tmp_path / "model")
    asked = ("evaluate", tmp_path / "model", "--data", pictures.parent, "--workers", "0", "--ten-crop")
    assert offramp(*asked) == 0
    assert "Ten crops of each image, logits averaged" in capsys.readouterr().out
    assert offramp(*asked, "--json") == 0
    found = printed_json(capsys)
    assert [len(shares) for shares in found["ten_crops"].values()] == [3, 3]
    assert found["images"] == 12


# ---- predict


def test_predicting_prints_a_line_per_image(model: Path, paths: list[Path], capsys: Capture) -> None:
    assert offramp("predict", model, *paths) == 0
    said = capsys.readouterr().out
    assert "6 images" in said
    expected = load(model).predict(paths)
    for path, label in zip(paths, expected.label, strict=True):
        assert re.search(rf"{re.escape(str(path))} +2 +{CLASSES[label]} \d+\.\d %", said)


def test_predicting_one_image_says_so(model: Path, paths: list[Path], capsys: Capture) -> None:
    assert offramp("predict", model, paths[0]) == 0
    assert re.fullmatch(r"1 image \(\w+, fp32, \d+ threads?\)", capsys.readouterr().out.splitlines()[1])


@pytest.mark.parametrize("way", ["budget", "deadline", "exit", "plan", "nothing"])
def test_predicting_as_json_agrees_with_python(
    way: str, model: Path, paths: list[Path], tmp_path: Path, capsys: Capture
) -> None:
    classifier = load(model)
    budget = middle_budget(classifier)
    classifier.plan(budget).save(tmp_path / "plan.json")
    asked, wish = {
        "budget": (("--budget", budget), {"budget": budget}),
        "deadline": (("--deadline-ms", "60000"), {}),
        "exit": (("--exit", "0"), {"exit": 0}),
        "plan": (("--plan", tmp_path / "plan.json"), {"budget": budget}),
        "nothing": ((), {}),
    }[way]
    assert offramp("predict", model, *paths, *asked, "--json") == 0
    found = printed_json(capsys)
    expected = classifier.predict(paths, **wish)  # type: ignore[arg-type]
    assert [row["image"] for row in found] == [str(path) for path in paths]
    assert [row["exit"] for row in found] == expected.exit_index.tolist()
    assert [row["top"][0]["class"] for row in found] == [CLASSES[label] for label in expected.label]
    assert [row["top"][0]["probability"] for row in found] == pytest.approx(expected.probability.tolist(), abs=1e-6)


@pytest.mark.parametrize(("asked", "shown"), [(1, 1), (3, 3), (100, 4)])
def test_the_surest_classes_are_shown_in_their_order(
    model: Path, paths: list[Path], capsys: Capture, asked: int, shown: int
) -> None:
    assert offramp("predict", model, *paths, "--top-k", asked, "--json") == 0
    for row in printed_json(capsys):
        sure = [entry["probability"] for entry in row["top"]]
        assert len(sure) == shown
        assert sure == sorted(sure, reverse=True)


def test_a_shipped_model_predicts_by_name(paths: list[Path], capsys: Capture) -> None:
    assert offramp("predict", "halves-model", *paths) == 0
    assert "6 images" in capsys.readouterr().out


# ---- plan


def test_a_plan_says_what_it_is_expected_to_cost_and_score(model: Path, tmp_path: Path, capsys: Capture) -> None:
    budget = middle_budget(load(model))
    assert offramp("plan", model, "--budget", budget, "--out", tmp_path / "plan.json") == 0
    expected = load(model).plan(budget).expected
    assert f"{100 * expected.accuracy:.2f} % right at" in capsys.readouterr().out
    assert offramp("plan", model, "--budget", budget, "--out", tmp_path / "again.json", "--json") == 0
    found = printed_json(capsys)
    assert (found["accuracy"], found["mean_cost"]) == (expected.accuracy, expected.mean_cost)
    assert tuple(found["shares"]) == expected.shares


def test_a_plan_in_milliseconds_is_for_as_many_images_as_one_says(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []
    solve = Classifier.plan

    def plan(self: Classifier, budget: str, batch: int | None = None) -> ExitPlan:
        asked.append(batch)
        return solve(self, budget, batch)

    monkeypatch.setattr(Classifier, "plan", plan)
    for options in ((), ("--batch", 3)):
        out = tmp_path / f"{len(options)}.json"
        assert offramp("plan", model, "--budget", "9000ms", "--out", out, *options) == 0
    assert asked == [None, 3]


@pytest.mark.parametrize(
    ("budget", "unit"), [("9000ms", "ms an image, by what stages take"), ("1GMAC", "MAC an image;")]
)
def test_what_a_budget_has_bought_is_told_in_its_unit(
    model: Path, paths: list[Path], capsys: Capture, budget: str, unit: str
) -> None:
    assert offramp("predict", model, *paths, "--budget", budget) == 0
    said = capsys.readouterr().out
    assert "spent on average" in said
    assert unit in said


@pytest.mark.parametrize("command", ["predict", "plan", "evaluate"])
def test_that_there_is_no_calibration_is_told_before_a_runtime_is_made_ready(
    command: str, model: Path, paths: list[Path], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Classifier, "use", Mock(side_effect=AssertionError("opened")))
    options: dict[str, list[Path | str]] = {"predict": [*paths], "plan": ["--out", tmp_path / "plan.json"]}
    rest = options.get(command, [])
    assert offramp(command, model, *rest, "--budget", "1GMAC", "--precision", "bf16") == 2
    assert "no calibration of bf16 to solve a budget from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere.png", "--budget", "2ms"], "nowhere.png: no such file"),
        (["nowhere.png", "--exit", "9"], "exit 9: this network has exits 0 … 2"),
        (["nowhere.png", "--plan", "nothing.json"], "nothing.json: no such file"),
    ],
)
def test_wrong_arguments_are_told_before_a_runtime_is_made_ready(
    options: list[str], message: str, model: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Classifier, "use", Mock(side_effect=AssertionError("opened")))
    assert offramp("predict", model, *options) == 2
    assert message in capsys.readouterr().err


def test_every_command_keeps_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = Mock()
    monkeypatch.setattr("offramp.cli.main.keep_memory", keep)
    assert offramp("recipe", "show", "halves") == 0
    keep.assert_called_once_with()


# ---- list and cost


def test_everything_there_is_is_listed(capsys: Capture) -> None:
    assert offramp("list", "--json") == 0
    found = printed_json(capsys)
    assert found["models"] == ["halves-model"]
    assert offramp("list") == 0
    said = capsys.readouterr().out
    for package_name, constant, key in (
        ("nets", "VARIANTS", "networks"), ("data", "SOURCES", "data"), ("recipes", "RECIPES", "recipes"),
    ):  # fmt: skip
        names = list(entries(package_name, constant))
        assert found[key] == names
        assert all(name in said for name in names)


@pytest.mark.parametrize("what", ["name", "folder"])
def test_the_cost_of_every_exit_is_shown_full_lazy_and_direct(what: str, model: Path, capsys: Capture) -> None:
    assert offramp("cost", "tiny" if what == "name" else model, "--json") == 0
    rows = printed_json(capsys)
    net = CONFIG.build().eval()
    assert [row["exit"] for row in rows] == [0, 1, 2]
    assert [row["lazy_macs"] for row in rows] == list(staged_macs(net).at_exit)
    assert [row["direct_macs"] for row in rows] == list(direct_macs(net).at_exit)
    assert [row["full_macs"] for row in rows] == list(staged_macs(CONFIG.build_plain().eval()).at_exit)
    assert rows[-1]["parameters"] == sum(parameter.numel() for parameter in net.parameters())
    assert all(row["full_macs"] >= row["lazy_macs"] >= row["direct_macs"] for row in rows)
    assert all(later["ms"] > sooner["ms"] for sooner, later in pairwise(rows))


def test_more_classes_cost_more(capsys: Capture) -> None:
    assert offramp("cost", "tiny", "--classes", "100", "--json") == 0
    many = printed_json(capsys)
    assert offramp("cost", "tiny", "--json") == 0
    assert many[0]["lazy_macs"] > printed_json(capsys)[0]["lazy_macs"]


def test_costs_are_shown_as_a_table(capsys: Capture) -> None:
    assert offramp("cost", "tiny") == 0
    said = capsys.readouterr().out
    assert "tiny: cost of one image up to each exit" in said
    assert len(re.findall(r"^[012] ", said, re.MULTILINE)) == 3


# ---- import-checkpoint


def test_a_published_checkpoint_becomes_a_model_that_predicts(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "imported"
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"class {label}" for label in range(10)) + "\n\n")
    grey = "0.5,0.5,0.5"
    asked = ("--mean", grey, "--std", grey, "--size", "32", "--classes", names, "--spacing", "even")
    assert offramp("import-checkpoint", CHECKPOINT, "--out", out, *asked) == 0
    said = capsys.readouterr()
    assert f"wrote {out}: msdnet, 3 exits, 10 classes" in said.out
    assert f"next: offramp calibrate {out}" in said.out
    assert "unused cells, dropped: " in said.err
    assert offramp("predict", out, *write_images(tmp_path, 2), "--json") == 0
    assert all(row["top"][0]["class"].startswith("class ") for row in printed_json(capsys))


def test_preprocessing_and_class_names_can_come_from_a_data_set(tmp_path: Path) -> None:
    assert offramp("import-checkpoint", CHECKPOINT, "--out", tmp_path / "model", "--data", "cifar10") == 0
    loaded = load(tmp_path / "model")
    assert loaded.classes == entries("data", "SOURCES")["cifar10"].classes
    assert loaded.preprocessing == entries("data", "SOURCES")["cifar10"].preprocessing


def test_class_names_can_come_from_a_folder_of_images(tmp_path: Path, capsys: Capture) -> None:
    folder = write_classes(tmp_path / "mine", **{f"kind {label}": 2 for label in "jihgfedcba"})
    how = ("--data", folder, "--mean", "0.4,0.5,0.6", "--std", "0.5,0.5,0.5", "--size", "32")
    assert offramp("import-checkpoint", CHECKPOINT, "--out", tmp_path / "model", *how) == 0
    assert f"next: offramp calibrate {tmp_path / 'model'} --data {folder}\n" in capsys.readouterr().out
    loaded = load(tmp_path / "model")
    assert loaded.classes == tuple(f"kind {label}" for label in "abcdefghij")
    assert loaded.preprocessing == Preprocessing(32, (0.4, 0.5, 0.6), (0.5, 0.5, 0.5))


def test_without_preprocessing_the_import_says_what_it_is_good_for(tmp_path: Path, capsys: Capture) -> None:
    assert offramp("import-checkpoint", CHECKPOINT, "--out", tmp_path / "model") == 0
    said = capsys.readouterr()
    assert "no preprocessing given: use .net from Python" in said.err
    assert "next:" not in said.out
    assert load(tmp_path / "model").preprocessing is None


# ---- demo


def test_the_demo_does_the_whole_job_and_its_next_step_works(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "demo"
    assert offramp("demo", "--out", out) == 0
    said = capsys.readouterr().out
    for heading in ("Anytime", "Budgeted", "Deadlines", "Next:"):
        assert heading in said
    assert "Deadlines: one image a call" in (out / "report.html").read_text()
    command = re.search("offramp (predict .* --top-k 3)  ", said)
    assert command is not None
    assert offramp(*shlex.split(command[1])) == 0


def test_a_demo_on_a_machine_that_has_become_busy_says_which_deadlines_were_not_kept(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(predictor: AnytimePredictor[Any], image: Images, deadline_ms: float) -> Predictions:
        raise BudgetError(f"deadline {deadline_ms} ms is too short now")

    monkeypatch.setattr(AnytimePredictor, "predict", refuse)
    assert offramp("demo", "--out", tmp_path / "demo") == 0
    assert len(re.findall(r"[\d.]+ ms +0\.00 +– +– +0\.0\n", capsys.readouterr().out)) == 3


def test_an_earlier_demo_is_replaced_and_anything_else_is_not(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other, file = tmp_path / "run", tmp_path / "other", tmp_path / "file"
    monkeypatch.setattr("offramp.cli.demo._is_demo", lambda recipe: recipe.exists())  # the small world has no digits
    assert offramp("train", "digits", "--out", run) == 0
    before = (run / "metrics.jsonl").stat().st_mtime_ns
    assert offramp("demo", "--out", run) == 0
    assert (run / "metrics.jsonl").stat().st_mtime_ns > before
    other.mkdir()
    (other / "thesis.tex").touch()
    file.touch()
    mixed = tmp_path / "mixed"
    shutil.copytree(run, mixed)
    (mixed / "thesis.tex").touch()
    for precious in (other, mixed, file):
        assert offramp("demo", "--out", precious) == 2
        assert f"{precious}: holds something else than an earlier demo" in capsys.readouterr().err
        assert precious.exists()


# ---- the command itself


def test_the_version_is_the_packages(capsys: Capture) -> None:
    assert offramp("--version") == 0
    assert capsys.readouterr().out == f"offramp {package.__version__}\n"


def test_help_names_every_command_and_each_has_help_of_its_own(capsys: Capture) -> None:
    assert offramp("--help") == 0
    overview = capsys.readouterr().out
    for group in GROUPS:
        assert offramp(group, "-h") == 0
        listed = capsys.readouterr().out
        assert all(command.split()[1] in listed for command in COMMANDS if command.startswith(f"{group} "))
    for command in COMMANDS:
        assert re.search(rf"^  {command.split()[0]} ", overview, re.MULTILINE)
        assert offramp(*command.split(), "-h") == 0
        assert "Usage: offramp" in capsys.readouterr().out


def test_without_a_command_the_help_is_shown(capsys: Capture) -> None:
    assert offramp() == 2
    said = capsys.readouterr()
    assert "Usage: offramp" in said.out + said.err
    assert "Traceback" not in said.err


def test_an_interruption_ends_with_a_line_and_130(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("offramp.cli.running.find", interrupt)
    assert offramp("plan", "model", "--budget", "1MMAC", "--out", "plan.json") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "offramp: interrupted"


def test_an_interruption_is_told_whichever_way_it_arrives(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for interruption in (KeyboardInterrupt, typer.Abort):
        monkeypatch.setattr("typer.main.get_command", Mock(side_effect=interruption))
        assert offramp("list") == 130
        assert capsys.readouterr().err == "offramp: interrupted\n"


@pytest.mark.parametrize("error", [BrokenPipeError(), BrokenPipeError(errno.EPIPE, "Broken pipe")], ids=repr)
def test_a_reader_that_goes_away_leaves_no_complaint(error: BrokenPipeError, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(said, "close", lambda: None)
    monkeypatch.setattr(sys, "stdout", Mock(write=Mock(side_effect=error)))
    monkeypatch.setattr(sys, "stderr", said)
    with contextlib.suppress(SystemExit):  # Typer ends the process itself where it knows the error
        assert offramp("list", "--json") == 0
    assert said.getvalue() == ""


def test_errors_nobody_raised_on_purpose_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("offramp.cli.running.find", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        offramp("plan", "model", "--budget", "1MMAC", "--out", "plan.json")


def test_only_a_run_on_digits_counts_as_an_earlier_demo(tmp_path: Path) -> None:
    for text, demo in (('{"source": "digits"}', True), ('{"source": "cifar10"}', False), ("[]", False), ("{", False)):
        (tmp_path / "recipe.json").write_text(text)
        assert _is_demo(tmp_path / "recipe.json") is demo
    assert not _is_demo(tmp_path / "missing.json")


def test_damaged_scores_are_replaced_by_calibrating_again(model: Path, capsys: Capture) -> None:
    (model / CALIBRATION).write_bytes(b"not scores")
    assert offramp("predict", model, "x.png", "--budget", "1MMAC") == 2
    assert "calibrate again" in capsys.readouterr().err
    assert offramp("calibrate", model) == 0
    assert load(model).calibration is not None
