"""Going on with a run, and ending it before its end."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from offramp.errors import ArtifactError, DataError, InterruptedRunError, TrainingError
from offramp.train.checkpoint import Checkpoints
from offramp.train.loop import Keeper, Progress, fit
from offramp.train.step import Step
from offramp.train.trainer import Trainer
from quarters import RECIPE, changed, received, same_weights, slow_steps, stored, tiny_net, trainer_for
from tiny import Clock


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return slow_steps(monkeypatch)


# ---- going on


@pytest.mark.parametrize(
    ("stop", "changes"),  # in the midst of an epoch, or at its end
    [
        (3, {}), (4, {}), (3, {"ema_decay": 0.9}), (4, {"ema_decay": 0.9}), (3, {"channels_last": False}),
        (3, {"precision": "fp16", "clip_norm": 1.0}), (3, {"mixup": 0.4, "cutout": 3}),
        (3, {"crop_area": (0.5, 1.0), "color_jitter": 0.2}), (4, {"drop_last": False, "batch_size": 25}),
        (3, {"freeze": "stages:1", "backbone_rate": 0.1}), (4, {"schedule": "multistep", "momentum": 0.0, "nesterov": False}),
    ],
    ids=lambda what: ",".join(what) or "plain" if isinstance(what, dict) else str(what),
)  # fmt: skip
def test_a_resumed_run_ends_with_the_very_weights_of_an_uninterrupted_one(
    checkpoints: Checkpoints, changes: dict[str, Any], stop: int
) -> None:
    recipe = changed(**changes)
    whole = trainer_for(recipe)
    fit(whole)
    stopped = trainer_for(recipe)
    for _ in range(stop):
        stopped.advance()
    checkpoints.save(stopped.state(), stop)
    resumed = trainer_for(recipe, net=tiny_net(seed=99))
    resumed.restore(stored(checkpoints))
    assert resumed.step == stop
    fit(resumed)
    same_weights(resumed.net, whole.net)
    same_weights(resumed.result, whole.result)


def test_a_killed_run_goes_on_from_its_last_whole_epoch(checkpoints: Checkpoints) -> None:
    whole = fit(trainer_for(RECIPE))

    def kill(progress: Progress) -> None:
        if progress.step == 8:  # an epoch is told before it is saved
            raise KeyboardInterrupt

    killed = trainer_for(RECIPE)
    with pytest.raises(KeyboardInterrupt):
        fit(killed, Keeper(killed, checkpoints), kill)
    resumed = trainer_for(RECIPE, net=tiny_net(seed=99))
    resumed.restore(stored(checkpoints))
    assert resumed.step == resumed.steps_per_epoch
    same_weights(fit(resumed, Keeper(resumed, checkpoints)), whole)
    finished = trainer_for(RECIPE, net=tiny_net(seed=98))
    finished.restore(stored(checkpoints))
    same_weights(fit(finished), whole)


def test_a_checkpoint_of_another_recipe_is_refused_by_what_differs(checkpoints: Checkpoints) -> None:
    checkpoints.save(trainer_for(RECIPE).state(), 0)
    for other, names in (
        (changed(seed=1), "seed=0, not 1"),
        (changed(epochs=3, learning_rate=1.0), "epochs=2, not 3; learning_rate=0.05, not 1.0"),
    ):
        with pytest.raises(
            ArtifactError, match=rf"^the checkpoint was made with {names}: resume with the same settings$"
        ):
            trainer_for(other).restore(stored(checkpoints))


def test_the_time_of_a_run_leaves_interruptions_out(checkpoints: Checkpoints, clock: Clock) -> None:
    first = trainer_for(RECIPE)
    with pytest.raises(InterruptedRunError):
        fit(first, Keeper(first, checkpoints), signals=received(2))
    clock.pass_ms(3_600_000)
    resumed = trainer_for(RECIPE)
    resumed.restore(stored(checkpoints))
    fit(resumed)
    assert resumed.seconds == pytest.approx(8 * 0.4)


# ---- stopping


def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint_and_the_exit_code_a_shell_expects(
    checkpoints: Checkpoints,
) -> None:
    trainer = trainer_for(RECIPE)
    with pytest.raises(InterruptedRunError, match=r"^stopped after step 1; go on with --resume$") as caught:
        fit(trainer, Keeper(trainer, checkpoints), signals=received(15))
    assert caught.value.exit_code == 143
    assert stored(checkpoints)["step"] == 1


def test_a_signal_in_the_last_step_interrupts_nothing(checkpoints: Checkpoints) -> None:
    trainer = trainer_for(changed(epochs=1))
    for _ in range(3):
        trainer.advance()
    assert fit(trainer, Keeper(trainer, checkpoints), signals=received(2)) is trainer.net
    assert stored(checkpoints)["step"] == 4


def test_without_a_signal_a_watched_run_goes_to_its_end() -> None:
    trainer = trainer_for(changed(epochs=1))
    fit(trainer, signals=received(None))
    assert trainer.step == 4


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_the_checkpoints_alone(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_for(RECIPE)
    plain = Step.__call__

    def spoilt(self: Step, images: Tensor, targets: Tensor) -> Tensor:
        losses = plain(self, images, targets)
        return losses if trainer.step != 5 else losses * torch.tensor([1.0, float("nan")])

    monkeypatch.setattr(Step, "__call__", spoilt)
    with pytest.raises(
        TrainingError, match=r"^the loss of exit 1 is nan at step 6; the last good checkpoint is kept: "
    ):
        fit(trainer, Keeper(trainer, checkpoints))
    assert stored(checkpoints)["step"] == 4


def test_weights_that_are_no_numbers_are_never_saved(checkpoints: Checkpoints) -> None:
    trainer = trainer_for(RECIPE)
    keeper = Keeper(trainer, checkpoints)
    keeper.save()
    with torch.no_grad():
        next(trainer.net.parameters()).view(-1)[0] = float("inf")
    trainer.step = 1
    with pytest.raises(TrainingError, match="weights are not numbers any more after step 1; lower learning_rate"):
        keeper.save()
    assert stored(checkpoints)["step"] == 0


def without_images_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    trainer = trainer_for(RECIPE)
    advance = trainer.advance

    def fail() -> Tensor:
        if trainer.step == steps:
            raise DataError("a.png: no such file; check the path")
        return advance()

    monkeypatch.setattr(trainer, "advance", fail)
    return trainer


def test_images_that_cannot_be_had_any_more_end_the_run_with_a_checkpoint(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = without_images_after(6, monkeypatch)
    with pytest.raises(DataError, match=r"a\.png"):
        fit(trainer, Keeper(trainer, checkpoints))
    assert stored(checkpoints)["step"] == 6


def test_images_that_could_not_be_had_for_a_signal_are_an_interruption(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, signals = without_images_after(4, monkeypatch), received(None)

    def interrupt(progress: Progress) -> None:
        if progress.step == 4:
            signals.received = 2  # too late to be seen after the step, and the workers got it too

    with pytest.raises(InterruptedRunError, match="stopped after step 4; go on with --resume") as caught:
        fit(trainer, Keeper(trainer, checkpoints), interrupt, signals)
    assert caught.value.exit_code == 130
    assert stored(checkpoints)["step"] == 4


def test_an_epoch_whose_report_failed_for_want_of_images_is_reported_when_the_run_goes_on(
    checkpoints: Checkpoints,
) -> None:
    def fail(progress: Progress) -> None:
        if progress.ends_epoch:
            raise DataError("a.png: no such file; check the path")

    told: list[Progress] = []
    first, whole = trainer_for(RECIPE), trainer_for(RECIPE)
    fit(whole, report=told.append)
    with pytest.raises(DataError):
        fit(first, Keeper(first, checkpoints), fail)
    resumed, again = trainer_for(RECIPE, net=tiny_net(seed=99)), list[Progress]()
    resumed.restore(stored(checkpoints))
    fit(resumed, Keeper(resumed, checkpoints), again.append)
    ends = [(one.step, one.losses) for one in told if one.ends_epoch]
    assert [(one.step, one.losses) for one in again if one.ends_epoch] == ends
    assert stored(checkpoints)["untold"] == ()
    same_weights(resumed.net, whole.net)


def test_a_long_epoch_has_checkpoints_in_its_midst_with_all_that_is_to_be_kept(
    checkpoints: Checkpoints, clock: Clock
) -> None:
    trainer = trainer_for(changed(batch_size=4, epochs=1))
    steps: list[int] = []

    def extra() -> dict[str, Any]:
        steps.append(trainer.step)
        return {"about": "it"}

    fit(trainer, Keeper(trainer, checkpoints, extra, every_s=2))
    assert steps == [6, 12, 16]  # the first step that ends more than 2 s after the last checkpoint, and the last
    assert stored(checkpoints)["about"] == "it"
