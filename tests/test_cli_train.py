"""``offramp train`` on images of one's own."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from offramp.catalog import entries
from offramp.classifier import Classifier, load
from offramp.classifier.folder import save
from offramp.data.preprocess import Preprocessing
from pictures import write_classes
from tiny import CLASSES, HALVES, PREPROCESSING, install, make_classifier, offramp

COLOURS = ("blue", "green", "red")
QUICK = ("--workers", "0", "--device", "cpu", "--set", "batch_size=8", "--set", "epochs=1")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module", autouse=True)
def _catalog() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of other classes, to be trained further."""
    folder = tmp_path_factory.mktemp("models") / "model"
    save(make_classifier(), folder)
    return folder


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 9 test images."""
    folder = tmp_path_factory.mktemp("data") / "colours"
    write_classes(folder / "train", blue=8, green=8, red=8)
    write_classes(folder / "test", blue=3, green=3, red=3)
    return folder


@pytest.fixture(scope="module")
def run(model: Path, colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained further on larger images, but for its backbone."""
    out = tmp_path_factory.mktemp("runs") / "colours"
    asked = ("--init", model, "--data", colours, "--freeze", "backbone", "--size", "20", "--holdout", "6")
    assert offramp("train", "finetune", *asked, "--out", out, *QUICK) == 0
    return out


def held_out(run: Path) -> list[int]:
    calibration = load(run).calibration
    assert calibration is not None
    indices: list[int] = calibration.indices.tolist()
    return indices


# ---- training further


def test_a_model_is_trained_further_on_a_folder_of_images(run: Path, model: Path) -> None:
    start, trained = load(model), load(run)
    assert trained.classes == COLOURS
    assert trained.preprocessing == replace(PREPROCESSING, image_size=20)
    assert trained.about["init"] == {"identity": start.identity, "source": "halves"}
    assert trained.about["recipe"]["freeze"] == "backbone"
    assert trained.about["source"]["name"] == "colours"
    assert len(held_out(run)) == trained.about["source"]["holdout"] == 6
    stored = Classifier(start.net, CLASSES, PREPROCESSING, storage="fp16").net.state_dict()
    for name, tensor in trained.net.state_dict().items():
        assert ".exit." in name or torch.equal(tensor, stored[name]), name


def test_its_next_step_evaluates_it_on_the_same_folder(
    model: Path, colours: Path, tmp_path: Path, capsys: Capture
) -> None:
    asked = ("--init", model, "--data", colours, "--out", tmp_path / "run")
    assert offramp("train", "finetune", *asked, *QUICK) == 0
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("next: offramp ").split()
    assert command == ["evaluate", str(tmp_path / "run"), "--data", str(colours)]
    assert offramp(*command, "--workers", "0") == 0
    assert "every exit on 9 test images of colours" in capsys.readouterr().out


def test_its_next_step_takes_what_was_held_out_where_there_are_no_test_images(
    model: Path, colours: Path, tmp_path: Path, capsys: Capture
) -> None:
    alone = Path(shutil.copytree(colours / "train", tmp_path / "colours"))
    assert offramp("train", "finetune", "--init", model, "--data", alone, "--out", tmp_path / "run", *QUICK) == 0
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("next: offramp ").split()
    assert command[-2:] == ["--split", "calibrate"]
    assert offramp(*command, "--workers", "0") == 0


def test_what_was_trained_on_is_not_evaluated_as_held_out(
    run: Path, colours: Path, tmp_path: Path, capsys: Capture
) -> None:
    grown = Path(shutil.copytree(colours, tmp_path / "colours"))
    shutil.copy(grown / "train" / "red" / "0.png", grown / "train" / "blue" / "new.png")
    assert offramp("evaluate", run, "--data", grown, "--workers", "0", "--split", "calibrate") == 2
    assert "is not the one this model's training left alone" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_data_nor_over_a_finished_model(
    model: Path, colours: Path, tmp_path: Path, capsys: Capture
) -> None:
    def train(*options: object) -> int:
        asked = ("--init", model, "--holdout", "6", "--out", tmp_path / "run", *QUICK)
        return offramp("train", "finetune", *asked, *options)

    assert train("--data", colours) == 0
    other = write_classes(tmp_path / "colours", blue=8, green=8, rot=8)
    assert train("--data", other, "--resume") == 2
    assert "the run was begun with other data" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert train("--data", colours) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_random_weights_are_not_frozen(tmp_path: Path, capsys: Capture) -> None:
    assert offramp("train", "halves", "--freeze", "backbone", "--out", tmp_path / "run", *QUICK) == 2
    assert "freeze=backbone: would keep random weights; name a model with --init" in capsys.readouterr().err


def test_what_was_held_out_can_be_evaluated_where_there_are_no_test_images(
    run: Path, colours: Path, tmp_path: Path, capsys: Capture
) -> None:
    alone = Path(shutil.copytree(colours / "train", tmp_path / "colours"))
    assert offramp("evaluate", run, "--data", alone, "--workers", "0") == 2
    assert "has no test images" in capsys.readouterr().err
    assert offramp("evaluate", run, "--data", alone, "--workers", "0", "--split", "calibrate") == 0
    assert "every exit on 6 calibrate images of colours" in capsys.readouterr().out


def test_a_model_of_the_same_classes_keeps_its_answers(model: Path, tmp_path: Path) -> None:
    frozen = ("--freeze", "stages:3", "--set", "learning_rate=0", "--set", "ema_decay=0")
    assert (
        offramp("train", "finetune", "--init", model, "--data", "halves", "--out", tmp_path / "run", *frozen, *QUICK)
        == 0
    )
    start, trained = load(model).net.state_dict(), load(tmp_path / "run").net.state_dict()
    assert torch.equal(trained["stages.2.exit.linear.weight"], start["stages.2.exit.linear.weight"].half().float())


def test_a_run_that_trains_a_model_further_is_resumed_with_the_same_model(
    run: Path, model: Path, colours: Path
) -> None:
    before = load(run).identity
    asked = ("--data", colours, "--freeze", "backbone", "--size", "20", "--holdout", "6", "--out", run, "--resume")
    assert offramp("train", "finetune", "--init", model, *asked, *QUICK) == 0
    assert load(run).identity == before


# ---- a network of its own


def test_a_recipe_is_trained_on_a_folder_of_images_at_the_size_of_its_own_data(colours: Path, tmp_path: Path) -> None:
    assert offramp("train", "halves", "--data", colours, "--out", tmp_path / "run", *QUICK) == 0
    trained = load(tmp_path / "run")
    assert (trained.classes, trained.preprocessing) == (COLOURS, PREPROCESSING)
    assert len(held_out(tmp_path / "run")) == 2  # a tenth of 24


def test_images_are_augmented_by_workers_where_the_recipe_says_so(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = Preprocessing(16, (0.4,) * 3, (0.25,) * 3)
    monkeypatch.setitem(entries("data", "SOURCES"), "halves", replace(HALVES, preprocessing=rgb))
    recipe = ("--set", "crop_area=0.3,1", "--set", "color_jitter=0.4", "--set", "lighting=0.1", "--set", "mixup=0.2")
    asked = ("--data", colours, "--out", tmp_path / "run", *recipe, *QUICK, "--workers", "1")
    assert offramp("train", "halves", *asked) == 0
    assert load(tmp_path / "run").about["recipe"]["crop_area"] == [0.3, 1]


# ---- the hold-out


def test_the_images_to_hold_out_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "held-out.txt").write_text("3 95\n17 60\n")
    asked = ("--holdout-indices", tmp_path / "held-out.txt", "--out", tmp_path / "run")
    assert offramp("train", "halves", *asked, *QUICK) == 0
    assert held_out(tmp_path / "run") == load(tmp_path / "run").about["source"]["holdout_indices"] == [3, 17, 60, 95]


def test_the_last_of_an_order_of_all_images_are_held_out_as_public_code_does(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(96)
    torch.save(torch.from_numpy(order), tmp_path / "index.pth")
    asked = ("--holdout-indices", tmp_path / "index.pth", "--holdout", "10", "--out", tmp_path / "run")
    assert offramp("train", "halves", *asked, *QUICK) == 0
    assert held_out(tmp_path / "run") == sorted(order[-10:])


def test_size_and_seed_of_the_hold_out_can_be_chosen(tmp_path: Path) -> None:
    asked = ("--holdout", "11", "--set", "holdout_seed=7", "--out", tmp_path / "run")
    assert offramp("train", "halves", *asked, *QUICK) == 0
    assert held_out(tmp_path / "run") == sorted(np.random.default_rng(7).permutation(96)[-11:])


# ---- images that cannot be read


@pytest.fixture
def damaged(colours: Path, tmp_path: Path) -> Path:
    """A copy with two images that are none."""
    folder = Path(shutil.copytree(colours, tmp_path / "damaged"))
    (folder / "train" / "green" / "2.png").write_bytes(b"no image")
    whole = (folder / "train" / "red" / "5.png").read_bytes()
    (folder / "train" / "red" / "5.png").write_bytes(whole[: len(whole) // 2])
    return folder


def test_an_unreadable_image_stops_a_training_by_its_name(damaged: Path, tmp_path: Path, capsys: Capture) -> None:
    assert offramp("train", "halves", "--data", damaged, "--out", tmp_path / "run", *QUICK) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"offramp: .*(green/2|red/5)\.png: .*\n", said.err)


def test_unreadable_images_are_left_out_and_listed_if_asked(damaged: Path, tmp_path: Path, capsys: Capture) -> None:
    asked = ("--data", damaged, "--out", tmp_path / "run", "--on-bad-image", "skip", "--holdout", "4")
    assert offramp("train", "halves", *asked, *QUICK) == 0
    said = capsys.readouterr()
    notes = [line for line in said.err.splitlines() if line.startswith("note: ")]
    assert notes[0] == "note: left out 2 unreadable images:"
    assert [line.partition(": not")[0].partition(": cannot")[0] for line in notes[1:]] == [
        f"note:   {damaged / 'train' / name}" for name in ("green/2.png", "red/5.png")
    ]
    lines = [json.loads(line) for line in said.err.splitlines() if not line.startswith("note: ")]
    assert [line["epoch"] for line in lines] == [1]
    assert max(held_out(tmp_path / "run")) < 22
    assert load(tmp_path / "run").about["source"]["holdout"] == 4
