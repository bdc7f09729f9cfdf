from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from offramp.data.augment import draws, pad_crop_flip
from offramp.data.source import Split
from offramp.train.loop import Progress, fit
from offramp.train.schedule import learning_rate
from offramp.train.step import Step
from quarters import PREPROCESSING, changed, quarters, slow_steps, trainer_for

# ---- learning


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_losses_of_all_exits_go_down(precision: str) -> None:
    trainer = trainer_for(changed(precision=precision, epochs=6))
    losses = [trainer.advance() for _ in range(trainer.total_steps)]
    assert losses[0].shape == (2,)
    assert losses[0].dtype == torch.float32
    first, last = torch.stack(losses[:4]).mean(0), torch.stack(losses[-4:]).mean(0)
    assert (last < 0.7 * first).all()
    assert all(weight.dtype == torch.float32 for weight in trainer.net.parameters())


def test_a_trained_network_knows_the_images() -> None:
    split = quarters()
    net = fit(trainer_for(changed(epochs=8, ema_decay=0.5), split))
    assert not net.training
    with torch.inference_mode():
        answers = net(PREPROCESSING.normalize(torch.from_numpy(split.images))).argmax(2)
    assert (answers == torch.from_numpy(split.labels)).float().mean(1).min() > 0.8


# ---- what a step is given

Seen = list[tuple[Tensor, Tensor, float]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Every batch that a trainer steps on, with the learning rate, and no step taken."""
    batches: Seen = []

    def note(self: Step, images: Tensor, targets: Tensor) -> Tensor:
        batches.append((images, targets, self.optimizer.param_groups[0]["lr"]))
        return torch.zeros(2)

    monkeypatch.setattr(Step, "__call__", note)
    return batches


def numbered(count: int) -> Split:
    """Images whose brightness is their number."""
    numbers = np.arange(count)
    return Split(np.repeat(numbers.astype(np.uint8), 64).reshape(count, 8, 8, 1), numbers % 3)


def numbers_of(images: Tensor) -> list[int]:
    mean, std = PREPROCESSING.mean[0], PREPROCESSING.std[0]
    brightness = (images[:, 0, 0, 0] * std + mean) * 255
    return [round(value) for value in brightness.tolist()]


@pytest.mark.parametrize(("drop_last", "steps", "used"), [(True, 2, 32), (False, 3, 40)])
def test_each_epoch_uses_every_image_once_but_for_a_dropped_last_batch(
    seen: Seen, drop_last: bool, steps: int, used: int
) -> None:
    trainer = trainer_for(changed(drop_last=drop_last, crop_pad=0), numbered(40))
    assert (trainer.steps_per_epoch, trainer.total_steps) == (steps, 2 * steps)
    orders = []
    for _ in range(2):
        seen.clear()
        for _ in range(steps):
            trainer.advance()
        order = [number for images, _, _ in seen for number in numbers_of(images)]
        labels = [label for _, batch, _ in seen for label in batch.tolist()]
        assert labels == [number % 3 for number in order]
        assert len(order) == len(set(order)) == used
        orders.append(order)
    assert orders[0] != orders[1]


def test_the_order_of_the_images_depends_on_the_seed_alone(seen: Seen) -> None:
    orders = []
    for seed in (0, 0, 1):
        seen.clear()
        trainer_for(changed(seed=seed, crop_pad=0), numbered(40)).advance()
        orders.append(numbers_of(seen[0][0]))
    assert orders[0] == orders[1] != orders[2]


def test_a_data_set_smaller_than_a_batch_is_one_batch(seen: Seen) -> None:
    trainer = trainer_for(changed(crop_pad=0), numbered(10))
    assert trainer.steps_per_epoch == 1
    trainer.advance()
    assert sorted(numbers_of(seen[0][0])) == list(range(10))


@pytest.mark.parametrize(("pad", "flip"), [(2, False), (0, True), (1, True)])
def test_images_are_augmented_by_seed_epoch_and_index(seen: Seen, pad: int, flip: bool) -> None:
    split = quarters(20)
    trainer = trainer_for(changed(crop_pad=pad, flip=flip, batch_size=20, seed=3), split)
    trainer.advance()
    trainer.advance()
    for epoch, (images, labels, _) in enumerate(seen):
        random = draws(3, epoch, torch.arange(20), 3)
        expected = pad_crop_flip(
            torch.from_numpy(split.images), random, pad=pad, flip=flip, fill=PREPROCESSING.fill
        )  # fmt: skip
        rows = PREPROCESSING.normalize(expected).flatten(1).tolist()
        found = [rows.index(row) for row in images.flatten(1).tolist()]
        assert sorted(found) == list(range(20))
        assert labels.tolist() == split.labels[found].tolist()


def test_the_learning_rate_follows_the_schedule(seen: Seen) -> None:
    recipe = changed(epochs=3)
    trainer = trainer_for(recipe)
    for _ in range(trainer.total_steps):
        trainer.advance()
    assert [rate for _, _, rate in seen] == [learning_rate(recipe, step, 4) for step in range(12)]


# ---- progress


def test_progress_is_told_from_the_first_step_to_the_end_of_each_epoch() -> None:
    trainer = trainer_for(changed(ema_decay=0.5))
    told: list[Progress] = []
    fit(trainer, report=told.append)
    steps = [progress.step for progress in told]
    assert steps == sorted(set(steps))
    assert steps[0] == 1
    assert {4, 8} <= set(steps)
    for progress in told:
        assert (progress.total_steps, progress.steps_per_epoch) == (8, 4)
        assert progress.epoch == progress.step / 4
        assert progress.ends_epoch == (progress.step in (4, 8))
        assert len(progress.losses) == 2
        assert all(np.isfinite(progress.losses))
        assert progress.images_per_s > 0
        assert progress.net is trainer.result


def test_between_epochs_progress_is_told_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_steps(monkeypatch)
    told: list[Progress] = []
    fit(trainer_for(changed(batch_size=4, epochs=1)), report=told.append)
    assert [progress.step for progress in told] == [1, 5, 9, 13, 16]
    assert [progress.seconds for progress in told] == pytest.approx([0.4, 2, 3.6, 5.2, 6.4])
    assert [progress.images_per_s for progress in told] == pytest.approx([10] * 5)


def test_a_run_without_a_listener_or_a_checkpoint_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fit(trainer_for(changed(epochs=1)))
    assert list(tmp_path.iterdir()) == []
