"""Ensembles are networks with exits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import offramp
from offramp.classifier import Classifier
from offramp.errors import ConfigError
from offramp.nets.densenet import DenseNetConfig
from offramp.nets.ensemble import Ensemble, EnsembleConfig
from offramp.nets.resnet import ResNetConfig
from offramp.train.groups import frozen_modules, parameter_groups
from offramp.train.recipe import Recipe
from tiny import CLASSES, HALVES, PREPROCESSING, images, make_classifier
from tiny import offramp as command

SHARED: dict[str, Any] = {"image_channels": 1, "image_size": 16, "num_classes": 4}
SMALL = ResNetConfig(blocks=(1, 1), widths=(4, 8), channels=4, **SHARED)
LARGE = DenseNetConfig(layers=(3, 3), growth_rates=(8, 8), channels=16, **SHARED)
RATES = Recipe(variant="x", source="y", epochs=1, batch_size=8, learning_rate=0.1, backbone_rate=0.1)
IMAGES = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def members(count: int = 3) -> list[Classifier]:
    torch.manual_seed(0)
    return [Classifier(config.build(), CLASSES, PREPROCESSING) for config in (SMALL, LARGE, SMALL)[:count]]


def test_an_exit_answers_with_the_mean_of_the_probabilities_so_far() -> None:
    nets = [one.net for one in members()]
    together = Ensemble.of(*nets).eval()
    with torch.inference_mode():
        alone = torch.stack([net(IMAGES)[-1].softmax(-1) for net in nets])
        for k, logits in enumerate(together.walk(IMAGES)):
            torch.testing.assert_close(logits.softmax(-1), alone[: k + 1].mean(0))
            torch.testing.assert_close(together.direct(k, IMAGES), logits)


def test_a_member_with_several_exits_answers_at_its_last() -> None:
    net = make_classifier().net
    with torch.inference_mode():
        probabilities = Ensemble.of(net).eval()(IMAGES)[0].softmax(-1)
        torch.testing.assert_close(probabilities, net(IMAGES)[-1].softmax(-1))


def test_only_members_that_are_asked_for_are_run() -> None:
    nets = [one.net for one in members()]
    together = Ensemble.of(*nets).eval()
    ran: list[int] = []
    for number, stage in enumerate(together.stages):
        stage.register_forward_hook(lambda *_, number=number: ran.append(number))
    walk = together.walk(IMAGES)
    with torch.inference_mode():
        next(walk)
        next(walk)
    assert ran == [0, 1]


def test_probabilities_that_vanish_stay_finite() -> None:
    net = SMALL.build().eval()
    with torch.inference_mode():
        net.stages[0].exit.linear.bias.copy_(torch.tensor([1e4, 0, 0, 0]))  # type: ignore[union-attr, operator]
        assert bool(Ensemble.of(net)(IMAGES).isfinite().all())


def test_a_saved_ensemble_answers_the_same_in_every_runtime(tmp_path: Path) -> None:
    made = offramp.ensemble(*members())
    made.calibrate(HALVES.open())
    made.save(tmp_path / "model")
    pixels = images(9)
    expected = made.predict(pixels)
    for runtime in ("eager", "openvino", "onnx"):
        again = offramp.load(tmp_path / "model", runtime=runtime)
        assert again.net.config == made.net.config
        assert again.predict(pixels).logits == pytest.approx(expected.logits, abs=1e-4)
    budget = float(np.mean(made.costs.at_exit[:2]))
    plan = again.plan(budget)
    assert plan.expected.mean_cost <= budget
    within = again.predict(pixels, plan=plan)
    assert within.exit_index.tolist() == made.predict(pixels, plan=plan).exit_index.tolist()
    assert again.predict(pixels, deadline_ms=10_000).exit_index.tolist() == [2] * 9


def test_a_size_that_one_member_cannot_take_is_refused_at_the_start() -> None:
    large = SMALL.replace(stem="large", image_size=16)
    net = Ensemble.of(SMALL.build(), large.build())
    with pytest.raises(ConfigError, match="wants at least 8 a side"):
        net.start(torch.zeros(1, 1, 4, 4))


def test_the_cheapest_member_runs_first_whatever_the_order() -> None:
    small, large, other = members()
    for order in ((large, small, other), (small, other, large)):
        net = offramp.ensemble(*order).net
        assert isinstance(net, Ensemble)
        assert [member.family for member in net.config.members] == ["resnet", "resnet", "densenet"]


def test_the_config_comes_back_and_changes_reach_all_members() -> None:
    config = EnsembleConfig.of(SMALL, LARGE)
    assert EnsembleConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    changed = config.replace(num_classes=7, image_size=32)
    assert {(one.num_classes, one.image_size) for one in changed.members} == {(7, 32)}


def test_the_command_makes_a_model_of_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, one in enumerate(members(2)):
        one.save(tmp_path / str(number))
    folders = [tmp_path / "0", tmp_path / "1"]
    assert command("ensemble", *folders, "--out", tmp_path / "both") == 0
    assert "2 exits at" in capsys.readouterr().out
    assert offramp.load(tmp_path / "both", runtime="eager").net.num_exits == 2
    assert command("ensemble", *folders, "--out", tmp_path / "both") == 2
    assert command("ensemble", folders[0], "--out", tmp_path / "one") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "holds a model already; choose another --out" in said
    assert "an ensemble wants at least two" in said


def test_one_source_of_all_members_is_remembered() -> None:
    both = members(2)
    for one in both:
        one.about["source"] = {"name": "halves", "holdout_seed": 0}
    assert offramp.ensemble(*both).about["source"] == both[0].about["source"]
    both[1].about["source"] = {"name": "halves", "holdout_seed": 1}
    with pytest.raises(ConfigError, match="so that no images are held out of all; train them with the same"):
        offramp.ensemble(*both)
    del both[1].about["source"]
    assert "source" not in offramp.ensemble(*both).about


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: EnsembleConfig.of(), "an ensemble wants at least one network"),
        (lambda: EnsembleConfig.of(SMALL, SMALL.replace(num_classes=5)), "num_classes=5 of a member of family 'resnet'"),
        (lambda: Ensemble(EnsembleConfig.of(SMALL), [LARGE.build()]), "not those that the ensemble's config describes"),
        (lambda: EnsembleConfig.from_json({"members": []}), "are unknown or missing in an ensemble"),
        (
            lambda: EnsembleConfig.from_json(SHARED | {"members": [{"family": "resnets", "net": {}}]}),
            "network family 'resnets' is unknown; did you mean 'resnet'",
        ),
        (
            lambda: offramp.ensemble(members(1)[0], Classifier(SMALL.build(), tuple("abcd"), PREPROCESSING)),
            "classes of model 1 and of model 2 differ (left and a)",
        ),
        (
            lambda: frozen_modules(EnsembleConfig.of(SMALL).build(), "backbone"),
            "the exits of an ensemble are whole networks; fine-tune its members",
        ),
        (
            lambda: parameter_groups(EnsembleConfig.of(SMALL).build(), RATES),
            "the exits of an ensemble are whole networks; fine-tune its members",
        ),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(act: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        act()
    assert message in str(caught.value)
