"""Training on 64 tiny images: one bright quarter each, in one of three places."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offramp.data.augment import draws, pad_crop_flip
from offramp.data.preprocess import Preprocessing
from offramp.data.source import Split
from offramp.errors import ArtifactError, ConfigError
from offramp.nets.base import MultiExitNet
from offramp.nets.msdnet import MSDNetConfig
from offramp.train import loop
from offramp.train.checkpoint import save_checkpoint
from offramp.train.loop import Progress, Trainer, build_seeded, fit, train_step
from offramp.train.recipe import Recipe
from offramp.train.schedule import learning_rate

CONFIG = MSDNetConfig(
    exits=2, base=1, step=1, channels=4, growth_rate=2, scale_factors=(1, 2), bottleneck_factors=(1, 2),
    image_channels=1, image_size=8, num_classes=3,
)  # fmt: skip
PREPROCESSING = Preprocessing(8, (0.25,), (0.4,))
RECIPE = Recipe(
    variant="tiny",
    source="quarters",
    epochs=2,
    batch_size=16,
    learning_rate=0.05,
    warmup_epochs=0.5,
    crop_pad=1,
    flip=False,
)
CPU = torch.device("cpu")


def quarters(count: int = 64) -> Split:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, count)
    images = draw.integers(0, 60, (count, 8, 8, 1), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 150
    return Split(images, labels.astype(np.int64))


def tiny_net(seed: int = 0) -> MultiExitNet:
    net = build_seeded(CONFIG.build, seed)
    assert isinstance(net, MultiExitNet)
    return net


def trainer_for(recipe: Recipe, split: Split | None = None, net: MultiExitNet | None = None) -> Trainer:
    return Trainer(net or tiny_net(), recipe, split or quarters(), PREPROCESSING, CPU)


def same_weights(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def changed(**changes: Any) -> Recipe:
    return dataclasses.replace(RECIPE, **changes)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
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


@pytest.mark.parametrize("recipe", [changed(), changed(ema_decay=0.9), changed(channels_last=False)])
@pytest.mark.parametrize("stop", [3, 4])  # in the midst of an epoch, and at its end
def test_a_resumed_run_ends_with_the_very_weights_of_an_uninterrupted_one(
    tmp_path: Path, recipe: Recipe, stop: int
) -> None:
    whole = trainer_for(recipe)
    fit(whole)
    stopped = trainer_for(recipe)
    for _ in range(stop):
        stopped.advance()
    save_checkpoint(tmp_path / "last.pt", stopped.state())
    resumed = trainer_for(recipe, net=tiny_net(seed=99))
    resumed.restore(tmp_path / "last.pt")
    assert resumed.step == stop
    fit(resumed)
    same_weights(resumed.net, whole.net)
    same_weights(resumed.result, whole.result)


def test_a_killed_run_goes_on_from_its_last_whole_epoch(tmp_path: Path) -> None:
    whole = fit(trainer_for(RECIPE))

    def kill(progress: Progress) -> None:
        if progress.ends_epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(trainer_for(RECIPE), tmp_path / "last.pt", kill)
    resumed = trainer_for(RECIPE, net=tiny_net(seed=99))
    resumed.restore(tmp_path / "last.pt")
    assert resumed.step == resumed.steps_per_epoch
    same_weights(fit(resumed, tmp_path / "last.pt"), whole)
    finished = trainer_for(RECIPE, net=tiny_net(seed=98))
    finished.restore(tmp_path / "last.pt")
    same_weights(fit(finished), whole)


def test_a_checkpoint_of_another_recipe_is_refused_by_what_differs(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", trainer_for(RECIPE).state())
    for other, names in ((changed(seed=1), "seed"), (changed(epochs=3, learning_rate=1.0), "epochs, learning_rate")):
        with pytest.raises(
            ArtifactError, match=rf"last\.pt: was made with another {names}; resume with the same settings"
        ):
            trainer_for(other).restore(tmp_path / "last.pt")


def test_the_kept_network_is_the_running_average_of_weights_and_norm_statistics() -> None:
    decay = 0.7
    trainer = trainer_for(changed(ema_decay=decay))
    expected: dict[str, Tensor] = {}
    for _ in range(5):
        trainer.advance()
        for name, tensor in trainer.net.state_dict().items():
            now = tensor.double()
            expected[name] = decay * expected[name] + (1 - decay) * now if name in expected else now
    kept = trainer.result.state_dict()
    assert kept.keys() == expected.keys()
    for name, tensor in kept.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert trainer.result is not trainer.net


def test_without_an_average_the_last_weights_are_kept() -> None:
    trainer = trainer_for(changed(epochs=1))
    assert fit(trainer) is trainer.net


def reference_steps(net: MultiExitNet, recipe: Recipe, images: Tensor, labels: Tensor, weights: list[float]) -> None:
    """Two steps of SGD with momentum and weight decay, written out."""
    velocity: dict[str, Tensor] = {}
    for _ in range(2):
        net.zero_grad(set_to_none=True)
        loss = torch.zeros(())
        for weight, logits in zip(weights, net.walk(images), strict=True):
            loss = loss - weight * logits.log_softmax(1)[torch.arange(len(labels)), labels].mean()
        torch.autograd.backward(loss)
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None
            gradient = parameter.grad + recipe.weight_decay * parameter.detach()
            before = velocity.get(name, torch.zeros_like(gradient))
            velocity[name] = recipe.momentum * before + gradient
            move = gradient + recipe.momentum * velocity[name] if recipe.nesterov else velocity[name]
            parameter.data -= recipe.learning_rate * move


@pytest.mark.parametrize("nesterov", [True, False])
def test_a_step_is_a_step_of_sgd_on_the_weighted_sum_of_the_exits(nesterov: bool) -> None:
    recipe = changed(nesterov=nesterov, weight_decay=0.01)
    split, weights = quarters(16), [0.5, 2.0]
    images, labels = PREPROCESSING.normalize(torch.from_numpy(split.images)), torch.from_numpy(split.labels)
    ours, theirs = tiny_net().train(), tiny_net().train()
    optimizer = torch.optim.SGD(
        ours.parameters(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=nesterov
    )
    for _ in range(2):
        losses = train_step(ours, optimizer, images, labels, torch.tensor(weights), recipe)
        assert losses.shape == (2,)
        assert not losses.requires_grad
    reference_steps(theirs, recipe, images, labels, weights)
    for (name, tensor), expected in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-5, msg=name)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, float]]:
    """Every batch that a trainer steps on, with the learning rate, and no step taken."""
    batches: list[tuple[Tensor, Tensor, float]] = []

    def note(_forward: object, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, *_: object) -> Tensor:
        batches.append((images, labels, optimizer.param_groups[0]["lr"]))
        return torch.zeros(2)

    monkeypatch.setattr(loop, "train_step", note)
    return batches


def numbered(count: int) -> Split:
    """Images whose brightness is their number."""
    numbers = np.arange(count)
    return Split(np.repeat(numbers.astype(np.uint8), 64).reshape(count, 8, 8, 1), numbers % 3)


def numbers_of(images: Tensor) -> list[int]:
    mean, std = PREPROCESSING.mean[0], PREPROCESSING.std[0]
    brightness = (images[:, 0, 0, 0] * std + mean) * 255
    return [round(value) for value in brightness.tolist()]


Seen = list[tuple[Tensor, Tensor, float]]


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
    trainer = trainer_for(changed(epochs=3))
    for _ in range(trainer.total_steps):
        trainer.advance()
    expected = [learning_rate(step, peak=0.05, warmup_steps=2, total_steps=12) for step in range(12)]
    assert [rate for _, _, rate in seen] == expected


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
    times = iter(100 + 0.4 * tick for tick in range(99))
    monkeypatch.setattr("offramp.train.loop.time.perf_counter", lambda: next(times))
    told: list[int] = []
    fit(trainer_for(changed(batch_size=4, epochs=1)), report=lambda progress: told.append(progress.step))
    assert told == [1, 3, 5, 7, 9, 11, 13, 15, 16]


def test_a_run_without_a_listener_or_a_checkpoint_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fit(trainer_for(changed(epochs=1)))
    assert list(tmp_path.iterdir()) == []


def test_weights_of_the_loss_must_fit_the_exits() -> None:
    with pytest.raises(ConfigError, match="this network has 2 exits"):
        trainer_for(changed(loss_weights=(1.0, 1.0, 1.0)))


def test_an_exit_without_weight_does_not_learn() -> None:
    trainer = trainer_for(changed(loss_weights=(0.0, 1.0), weight_decay=0.0, epochs=1))
    before = {name: weight.detach().clone() for name, weight in trainer.net.named_parameters()}
    fit(trainer)
    moved = {name for name, weight in trainer.net.named_parameters() if not torch.equal(weight, before[name])}
    assert not any(name.startswith("stages.0.exit") for name in moved)
    assert any(name.startswith("stages.1.exit") for name in moved)


def test_a_compiled_run_steps_through_the_compiled_network(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def compiled(net: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def forward(images: Tensor) -> Tensor:
            calls.append(len(images))
            return net(images)

        return forward

    monkeypatch.setattr(torch, "compile", compiled)
    trainer_for(changed(compile=True)).advance()
    assert calls == [16]


def test_initial_weights_depend_on_the_seed_alone_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = tiny_net(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    same_weights(tiny_net(3), one)
    assert not torch.equal(next(tiny_net(4).parameters()), next(one.parameters()))


def test_a_last_batch_of_one_image_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match="batch_size=4: leaves a last batch of one of 9 images"):
        trainer_for(dataclasses.replace(RECIPE, batch_size=4, drop_last=False), quarters(9))
