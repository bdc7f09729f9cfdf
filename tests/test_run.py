import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offramp.classifier import Classifier, load
from offramp.data.source import Source
from offramp.errors import ArtifactError, ConfigError, DataError
from offramp.train.loop import Progress
from offramp.train.recipe import Recipe
from offramp.train.run import CHECKPOINT, METRICS, check_run_folder, net_config, open_source, train_run
from tiny import CLASSES, CONFIG, HALVES, RECIPE, images, install

CPU = torch.device("cpu")
TWO_EPOCHS = replace(RECIPE, epochs=2, ema_decay=0.5)
Tell = Callable[[Progress, tuple[float, ...] | None], None]


@pytest.fixture(scope="module", autouse=True)
def _catalog() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        yield


def train(out: Path, recipe: Recipe = TWO_EPOCHS, *, resume: bool = False, report: Tell | None = None) -> Classifier:
    return train_run(recipe, open_source(recipe, None), out, device=CPU, resume=resume, report=report)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Classifier, list[tuple[float, Any]]]:
    """A finished run, the classifier it returned and what it told."""
    out = tmp_path_factory.mktemp("runs") / "two-epochs"
    told: list[tuple[float, Any]] = []
    classifier = train(out, report=lambda progress, accuracy: told.append((progress.epoch, accuracy)))
    return out, classifier, told


Trained = tuple[Path, Classifier, list[tuple[float, Any]]]


def metrics_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


def test_a_run_leaves_recipe_metrics_checkpoint_and_model(trained: Trained) -> None:
    out, _, _ = trained
    assert {path.name for path in out.iterdir()} == {"recipe.json", METRICS, CHECKPOINT, "model"}
    assert json.loads((out / "recipe.json").read_text()) == json.loads(json.dumps(TWO_EPOCHS.to_json()))


def test_the_returned_classifier_is_the_stored_one(trained: Trained) -> None:
    out, classifier, _ = trained
    loaded = load(out)
    assert loaded.identity == classifier.identity
    assert np.array_equal(loaded.predict(images(8)).logits, classifier.predict(images(8)).logits)
    assert loaded.classes == CLASSES


def test_the_model_is_calibrated_on_the_hold_out_with_its_stored_weights(trained: Trained) -> None:
    _, classifier, _ = trained
    calibration, source = classifier.calibration, HALVES.open()
    assert calibration is not None
    assert np.array_equal(calibration.indices, source.calibrate_indices)
    logits = classifier.collect(source.split("calibrate").images)
    assert calibration.confidence == pytest.approx(logits.softmax(-1).amax(-1).numpy(), abs=1e-6)


def test_the_model_says_how_it_was_made(trained: Trained) -> None:
    about = trained[1].about
    assert about["recipe"]["epochs"] == 2
    digest = HALVES.open(None, 0).holdout_digest
    assert about["source"] == {"name": "halves", "holdout_seed": 0, "holdout": 32, "holdout_sha256": digest}
    assert about["seconds"] > 0
    assert {"device", "torch", "commit"} <= set(about["machine"])


def test_every_epoch_is_told_and_written_down_with_the_accuracy_of_each_exit(trained: Trained) -> None:
    out, _, told = trained
    ends = [(epoch, accuracy) for epoch, accuracy in told if accuracy is not None]
    assert [epoch for epoch, _ in ends] == [1, 2]
    metrics = metrics_of(out)
    assert [line["epoch"] for line in metrics] == [1, 2]
    assert [line["step"] for line in metrics] == [4, 8]  # 64 images in batches of 16
    assert [line["calibrate_top1"] for line in metrics] == [list(accuracy) for _, accuracy in ends]
    assert all(len(line["losses"]) == len(line["calibrate_top1"]) == 3 for line in metrics)


def test_the_hold_out_follows_the_recipes_seed(tmp_path: Path) -> None:
    recipe = replace(RECIPE, holdout_seed=7)
    calibration = train(tmp_path / "run", recipe).calibration
    assert calibration is not None
    assert calibration.seed == 7
    assert np.array_equal(calibration.indices, HALVES.open(seed=7).calibrate_indices)


def test_an_interrupted_run_goes_on_where_it_was(trained: Trained, tmp_path: Path) -> None:
    def interrupt(progress: Progress, accuracy: tuple[float, ...] | None) -> None:
        if progress.ends_epoch:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(out, report=interrupt)
    assert not (out / "model").exists()
    resumed = train(out, resume=True)
    assert resumed.identity == trained[1].identity
    assert [line["epoch"] for line in metrics_of(out)] == [1, 2]


def test_resuming_a_finished_run_gives_the_same_model_without_training(trained: Trained) -> None:
    out, classifier, _ = trained
    told: list[object] = []
    assert train(out, resume=True, report=lambda *what: told.append(what)).identity == classifier.identity
    assert told == []
    assert len(metrics_of(out)) == 2


def test_a_run_is_not_resumed_with_other_settings(trained: Trained) -> None:
    with pytest.raises(ArtifactError, match="was made with another learning_rate; resume with the same settings"):
        train(trained[0], replace(TWO_EPOCHS, learning_rate=0.2), resume=True)


def test_a_run_is_never_overwritten(trained: Trained) -> None:
    with pytest.raises(ArtifactError, match="holds a run already; go on with --resume, or choose another --out"):
        train(trained[0])


def test_where_there_is_no_run_nothing_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no checkpoint to resume from"):
        check_run_folder(tmp_path, resume=True)
    check_run_folder(tmp_path / "new", resume=False)


def test_the_network_is_fitted_to_the_data() -> None:
    source = Source(replace(HALVES, classes=("a", "b", "c", "d", "e")), None, 0)
    assert net_config(RECIPE, source) == CONFIG.replace(num_classes=5)


def test_unknown_networks_and_data_sets_are_refused_with_near_names() -> None:
    with pytest.raises(ConfigError, match="no network is called 'tinny'; did you mean 'tiny'"):
        net_config(replace(RECIPE, variant="tinny"), HALVES.open())
    with pytest.raises(ConfigError, match="no data set is called 'halfes'; did you mean 'halves'"):
        open_source(replace(RECIPE, source="halfes"), None)


def test_a_data_set_that_lives_in_a_folder_wants_that_folder() -> None:
    with pytest.raises(DataError, match="name the one above it with --data-root"):
        open_source(replace(RECIPE, source="cifar10"), None)
