"""Which weights a training changes, and which become the model."""

import pytest
import torch
from torch import Tensor

from offramp.errors import ConfigError
from offramp.train.loop import fit
from offramp.train.trainer import Trainer
from quarters import changed, quarters, same_weights, tiny_net, trainer_for

# ---- the average


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


# ---- what learns


def test_weights_of_the_loss_must_fit_the_exits() -> None:
    with pytest.raises(ConfigError, match="this network has 2 exits"):
        trainer_for(changed(loss_weights=(1.0, 1.0, 1.0)))


def moved(trainer: Trainer) -> set[str]:
    """Names of the weights and statistics that training changes."""
    before = {name: tensor.clone() for name, tensor in trainer.net.state_dict().items()}
    fit(trainer)
    return {name for name, tensor in trainer.net.state_dict().items() if not torch.equal(tensor, before[name])}


def test_an_exit_without_weight_does_not_learn() -> None:
    trainer = trainer_for(changed(loss_weights=(0.0, 1.0), weight_decay=0.0, epochs=1))
    learning = {name for name, _ in trainer.net.named_parameters()} & moved(trainer)
    assert not any(name.startswith("stages.0.exit") for name in learning)
    assert any(name.startswith("stages.1.exit") for name in learning)


@pytest.mark.parametrize("average", [0.0, 0.9])
@pytest.mark.parametrize(("freeze", "kept"), [("backbone", (0, 1)), ("stages:1", (0,)), ("stages:2", (0, 1))])
def test_what_is_frozen_keeps_its_weights_and_its_norm_statistics(
    freeze: str, kept: tuple[int, ...], average: float
) -> None:
    trainer = trainer_for(changed(freeze=freeze, epochs=1, ema_decay=average))
    changes = moved(trainer)
    for k in (0, 1):
        names = {name for name in trainer.net.state_dict() if name.startswith(f"stages.{k}.")}
        backbone = {name for name in names if not name.startswith(f"stages.{k}.exit")}
        assert names - backbone <= changes
        assert not backbone & changes if k in kept else backbone <= changes
    start = tiny_net().state_dict()
    for name, tensor in trainer.result.state_dict().items():
        if name not in changes:
            torch.testing.assert_close(tensor, start[name])


def test_the_backbone_learns_at_its_share_of_the_rate_of_the_exits() -> None:
    steps = {"epochs": 1, "warmup_epochs": 0, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    equal, slower = (trainer_for(changed(**steps, backbone_rate=rate)) for rate in (1.0, 0.25))
    start = {name: tensor.clone() for name, tensor in equal.net.named_parameters()}
    equal.advance()
    slower.advance()
    assert [group["lr"] for group in slower.optimizer.param_groups] == [0.05, 0.05 * 0.25]
    for (name, ours), theirs in zip(slower.net.named_parameters(), equal.net.parameters(), strict=True):
        share = 1 if ".exit." in name else 0.25
        torch.testing.assert_close(ours - start[name], share * (theirs - start[name]), rtol=1e-3, atol=1e-6)


def test_colour_noise_is_refused_for_grey_images() -> None:
    with pytest.raises(ConfigError, match=r"lighting=0\.1: shifts the colours of RGB images, and these are grey"):
        trainer_for(changed(lighting=0.1))


def test_initial_weights_depend_on_the_seed_alone_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = tiny_net(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    same_weights(tiny_net(3), one)
    assert not torch.equal(next(tiny_net(4).parameters()), next(one.parameters()))


@pytest.mark.parametrize(("count", "drop_last"), [(9, False), (1, True), (17, False)])
def test_a_last_batch_of_one_image_is_refused_before_training(count: int, drop_last: bool) -> None:
    with pytest.raises(ConfigError, match=f"batch_size=4: leaves a last batch of one of {count} images"):
        trainer_for(changed(batch_size=4, drop_last=drop_last), quarters(count))


def test_a_last_batch_of_one_image_that_is_dropped_is_no_reason_to_refuse() -> None:
    trainer_for(changed(batch_size=4), quarters(9)).advance()
