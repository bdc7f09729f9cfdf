import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offramp.classifier import Classifier, load
from offramp.classifier.run_folder import CHECKPOINTS, ENVIRONMENT, EVENTS, IN_RUN, METRICS, MODEL, RECIPE
from offramp.data.holdout import Holdout
from offramp.errors import ArtifactError, InterruptedRunError
from offramp.measure.machine import describe_machine
from offramp.train.checkpoint import Checkpoints
from offramp.train.loop import Progress
from offramp.train.run import Run, check_run_folder
from tiny import CLASSES, FINETUNE, HALVES, images, install, make_classifier, run_of
from tiny import RECIPE as HALVES_RECIPE

CPU = torch.device("cpu")
TWO_EPOCHS = replace(HALVES_RECIPE, epochs=2, ema_decay=0.5)


@pytest.fixture(scope="module", autouse=True)
def _catalog() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        yield


@dataclass(frozen=True)
class Told:
    """What a run says."""

    progress: list[tuple[float, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def report(self, progress: Progress, accuracy: tuple[float, ...] | None) -> None:
        self.progress.append((progress.epoch, accuracy))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Classifier, Told]:
    """A finished run, the classifier it returned and what it told."""
    out, told = tmp_path_factory.mktemp("runs") / "two-epochs", Told()
    return out, run_of(out, TWO_EPOCHS).train(report=told.report, remark=told.remarks.append), told


Trained = tuple[Path, Classifier, Told]


def metrics_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


# ---- what a run leaves


def test_a_run_leaves_recipe_environment_metrics_events_checkpoints_and_model(trained: Trained) -> None:
    out, _, told = trained
    found = {path.name for path in out.iterdir()}
    assert {RECIPE, ENVIRONMENT, METRICS, EVENTS, CHECKPOINTS, MODEL} <= found <= set(IN_RUN)
    assert json.loads((out / RECIPE).read_text()) == json.loads(json.dumps(TWO_EPOCHS.to_json()))
    environment = json.loads((out / ENVIRONMENT).read_text())
    assert environment.pop("packages")["torch"] == torch.__version__
    assert environment == {"data": "halves", **describe_machine(CPU)}
    assert [path.name[:13] for path in Checkpoints(out / CHECKPOINTS).files] == ["step-00000004", "step-00000008"]
    assert told.remarks == []


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
    logits = classifier.collect(source.split("calibrate"))
    assert calibration.confidence == pytest.approx(logits.softmax(-1).amax(-1).numpy(), abs=1e-6)


def test_the_model_says_how_it_was_made(trained: Trained) -> None:
    about = trained[1].about
    assert about["recipe"]["epochs"] == 2
    digest = HALVES.open().holdout_digest
    assert about["source"] == {"name": "halves", "holdout_seed": 0, "holdout": 32, "holdout_sha256": digest}
    assert about["seconds"] > 0
    assert {"device", "torch", "commit"} <= set(about["machine"])
    assert "init" not in about


def test_every_epoch_is_told_and_written_down_with_the_accuracy_of_each_exit(trained: Trained) -> None:
    out, _, told = trained
    ends = [(epoch, accuracy) for epoch, accuracy in told.progress if accuracy is not None]
    assert [epoch for epoch, _ in ends] == [1, 2]
    metrics = metrics_of(out)
    assert [line["epoch"] for line in metrics] == [1, 2]
    assert [line["step"] for line in metrics] == [4, 8]  # 64 images in batches of 16
    assert [line["calibrate_top1"] for line in metrics] == [list(accuracy) for _, accuracy in ends]
    assert all(len(line["losses"]) == len(line["calibrate_top1"]) == 3 for line in metrics)
    assert all(line["images_per_s"] > 0 for line in metrics)


def test_the_model_knows_a_hold_out_that_was_drawn_otherwise(tmp_path: Path) -> None:
    calibration = run_of(tmp_path / "seed", HALVES_RECIPE, seed=7).train().calibration
    assert calibration is not None
    assert calibration.seed == 7
    assert np.array_equal(calibration.indices, HALVES.open(holdout=Holdout(7)).calibrate_indices)


def test_a_hold_out_that_was_given_image_by_image_is_written_into_the_model(tmp_path: Path) -> None:
    source = HALVES.open(holdout=Holdout(indices=np.arange(0, 96, 6)))
    classifier = Run(HALVES_RECIPE, source, tmp_path / "run", CPU).train()
    assert classifier.about["source"]["holdout_indices"] == list(range(0, 96, 6))


# ---- going on


def test_an_interrupted_run_goes_on_where_it_was(trained: Trained, tmp_path: Path) -> None:
    def interrupt(progress: Progress, accuracy: tuple[float, ...] | None) -> None:
        if progress.step == 1:
            signal.raise_signal(signal.SIGINT)

    out = tmp_path / "run"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(InterruptedRunError, match=r"stopped after step \d; go on with --resume") as caught:
        run_of(out, TWO_EPOCHS).train(report=interrupt)
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert not (out / MODEL).exists()
    told = Told()
    resumed = run_of(out, TWO_EPOCHS).train(resume=True, remark=told.remarks.append)
    assert resumed.identity == trained[1].identity
    assert [line["epoch"] for line in metrics_of(out)] == [1, 2]
    assert told.remarks == []


def test_resuming_a_finished_run_gives_the_same_model_without_training(trained: Trained) -> None:
    out, classifier, _ = trained
    told = Told()
    again = run_of(out, TWO_EPOCHS).train(resume=True, report=told.report, remark=told.remarks.append)
    assert again.identity == classifier.identity
    assert told == Told()
    assert len(metrics_of(out)) == 2


def test_a_damaged_checkpoint_costs_an_epoch_and_a_remark(trained: Trained, tmp_path: Path) -> None:
    out = Path(shutil.copytree(trained[0], tmp_path / "run"))
    newest = Checkpoints(out / CHECKPOINTS).files[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    told = Told()
    again = run_of(out, TWO_EPOCHS).train(resume=True, report=told.report, remark=told.remarks.append)
    assert again.identity == trained[1].identity
    assert [remark[:13] for remark in told.remarks] == ["step-00000008"]
    assert [epoch for epoch, accuracy in told.progress if accuracy] == [2]
    assert [line["epoch"] for line in metrics_of(out)] == [1, 2]


def test_a_run_that_did_not_come_to_its_first_checkpoint_is_begun_anew(trained: Trained, tmp_path: Path) -> None:
    def fail(progress: Progress, accuracy: tuple[float, ...] | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_of(tmp_path, TWO_EPOCHS).train(report=fail)
    told = Told()
    assert run_of(tmp_path, TWO_EPOCHS).train(resume=True, remark=told.remarks.append).identity == trained[1].identity
    assert told.remarks == ["the run did not come to its first checkpoint; it begins anew"]


def test_a_run_is_not_resumed_with_other_settings(trained: Trained) -> None:
    with pytest.raises(ArtifactError, match=r"was made with learning_rate=.*, not 0.2: resume with the same settings"):
        run_of(trained[0], replace(TWO_EPOCHS, learning_rate=0.2)).train(resume=True)


def test_a_run_is_not_resumed_with_another_hold_out(trained: Trained) -> None:
    with pytest.raises(ArtifactError, match="was begun with other data; use the same files and hold-out"):
        run_of(trained[0], TWO_EPOCHS, seed=1).train(resume=True)


def test_a_run_is_not_resumed_with_another_model_to_start_from(tmp_path: Path) -> None:
    run_of(tmp_path, FINETUNE, data="halves", init=make_classifier()).train()
    for other in (make_classifier(seed=1), replace_identity(make_classifier())):
        with pytest.raises(ArtifactError, match="was begun with other init; name the same model with --init"):
            run_of(tmp_path, FINETUNE, data="halves", init=other).train(resume=True)


def replace_identity(classifier: Classifier) -> Classifier:
    with torch.no_grad():
        next(classifier.net.parameters()).view(-1)[0] += 1
    return classifier


def test_going_on_on_another_machine_is_remarked(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    here = describe_machine(CPU)
    monkeypatch.setattr("offramp.train.run.describe_machine", lambda _: here | {"device": "abacus", "threads": 99})
    told = Told()
    run_of(trained[0], TWO_EPOCHS).train(resume=True, remark=told.remarks.append)
    assert told.remarks == [
        f"resumed with device abacus (was {here['device']}), threads 99 (was {here['threads']}): "
        "weights may differ in their last bits from an uninterrupted run"
    ]


def test_a_run_is_never_overwritten(trained: Trained) -> None:
    with pytest.raises(ArtifactError, match="holds a run already; go on with --resume, or choose another --out"):
        run_of(trained[0], TWO_EPOCHS).train()


def test_where_there_is_no_run_nothing_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no checkpoint to resume from"):
        check_run_folder(tmp_path, resume=True)
    check_run_folder(tmp_path / "new", resume=False)
