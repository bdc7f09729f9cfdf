"""From a trained CondenseNet to a model that computes what is left of it, as users do it."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offramp.catalog import entries
from offramp.classifier import Classifier, load
from offramp.classifier.converting import convert
from offramp.errors import ConfigError
from offramp.measure.forms import REPEATS, fastest_forms, forms_of
from offramp.nets.condensenet import CondenseNet, CondenseNetConfig, Form
from offramp.nets.pruning import condense
from offramp.train.groups import fresh_exits
from offramp.train.halving import fine_tune
from tiny import CLASSES, HALVES, PREPROCESSING, RECIPE, Clock, images, install, make_classifier, offramp, run_of

CONFIG = CondenseNetConfig(
    layers=(2, 2), growth_rates=(4, 8), groups=2, condense_factor=4, groups_3x3=2, image_channels=1, image_size=16,
    num_classes=4,
)  # fmt: skip


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    monkeypatch.setitem(entries("nets", "VARIANTS"), "tiny-condense", CONFIG)


@pytest.fixture
def model(world: None, tmp_path: Path) -> Path:
    """Of a whole training."""
    run = run_of(tmp_path / "run", replace(RECIPE, variant="tiny-condense", epochs=4))
    run.train()
    return tmp_path / "run" / "model"


def classifier() -> Classifier:
    """As after a training, but quickly."""
    torch.manual_seed(0)
    net = CondenseNet(CONFIG)
    with torch.no_grad():
        for _ in range(4):
            net(torch.randn(16, 1, 16, 16))
    condense(net, 1.0)
    return Classifier(net, CLASSES, PREPROCESSING)


def test_a_converted_classifier_gives_the_same_answers_with_fewer_macs_and_parameters() -> None:
    before = classifier()
    after = convert(before)
    pixels = images(20)
    ours, theirs = after.predict(pixels), before.predict(pixels)
    assert ours.label.tolist() == theirs.label.tolist()
    assert ours.logits == pytest.approx(theirs.logits, abs=1e-5 * float(np.abs(theirs.logits).max()))
    assert after.identity != before.identity
    assert sum(after.about["converted"]["forms"].values()) == 4


FORMS: tuple[Form, ...] = ("grouped", "folded", "dense", "ungrouped")


def readings(forms: tuple[Form, ...], layers: Iterable[int], at_borders: int) -> Iterator[int]:
    """What the clock moves by before each reading, in one lap through the stem, two layers, the pooling, and two layers.

    Args:
        forms: of the four layers.
        layers: what each takes.
        at_borders: what it takes to go from a layer to one of another form in the same block.
    """
    for start in (0, 2):
        yield from (0, 0)  # the stem, or the pooling
        took = dict(zip(range(4), layers, strict=True))
        for grouped, places in groupby((start, start + 1), lambda place: forms[place] == "grouped"):
            border = at_borders if forms[start] != forms[start + 1] else 0
            if grouped:  # a block of them reads at its start and end, and between its layers
                yield from (0, border, *(took[place] for place in places), 0)
            else:
                yield from (step for place in places for step in (0, took[place]))


Candidates = list[tuple[tuple[Form, ...], list[int]]]
"""Forms of the four layers, and what each layer takes in them."""


def chosen(first: Candidates, second: Candidates, at_borders: int = 0) -> tuple[Form, ...]:
    """What is chosen, if candidates are timed in just these two goes and take so long."""
    steps = (
        step
        for candidates in (first, second)
        for _ in range(3 + REPEATS)
        for forms, layers in candidates
        for step in readings(forms, layers, at_borders)
    )
    clock = Clock()

    def read() -> float:
        clock.pass_ms(next(steps))
        return clock()

    net = classifier().net
    assert isinstance(net, CondenseNet)
    found = fastest_forms(net, read)
    assert next(steps, None) is None
    return found


@pytest.mark.parametrize("at_borders", [0, 9])
def test_each_layer_takes_the_form_that_took_the_least_time_unless_all_alike_are_faster_together(
    at_borders: int,
) -> None:
    alike: Candidates = [
        ((form,) * 4, [0 if place == mine else 1 for place in range(4)]) for mine, form in enumerate(FORMS)
    ]
    wanted = ("grouped",) * 4 if at_borders else FORMS
    assert chosen(alike, [(FORMS, [0] * 4), alike[0]], at_borders) == wanted


@pytest.mark.parametrize(("ungrouped", "wanted"), [(19, "grouped"), (17, "ungrouped")])
def test_a_form_that_computes_more_must_be_clearly_faster(ungrouped: int, wanted: Form) -> None:
    took = {"grouped": 20, "folded": 30, "dense": 30, "ungrouped": ungrouped}
    alike: Candidates = [((form,) * 4, [took[form]] * 4) for form in FORMS]
    assert chosen(alike, [alike[3], alike[0]]) == (wanted,) * 4


def test_a_form_can_be_asked_for_and_one_that_computes_more_says_so(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for form in ("grouped", "dense", "ungrouped"):
        assert offramp("convert", model, "--out", tmp_path / form, "--form", form) == 0
        said = capsys.readouterr()
        assert f"layers 4 {form};" in said.out
        assert ("that computes more than the" in " ".join(said.err.split())) == (form != "grouped")
        assert "faster" not in said.err  # nothing was measured
    assert offramp("convert", tmp_path / "grouped", "--out", tmp_path / "again", "--condense-classifier") == 2
    assert "has been converted already" in capsys.readouterr().err


def test_a_transition_takes_the_form_nearest_to_one_it_cannot_have() -> None:
    light = CONFIG.replace(reduction=0.5, condense_factor=2)
    assert forms_of(light, "folded") == ("folded", "folded", "grouped", "folded", "folded")
    assert forms_of(light, "ungrouped")[2] == "dense"


def test_the_command_writes_a_model_that_answers_the_same(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert offramp("convert", model, "--out", tmp_path / "small", "--data", "halves") == 0
    said = capsys.readouterr().out
    assert "wrote" in said
    pixels = images(12)
    before, after = load(model), load(tmp_path / "small")
    assert after.predict(pixels).logits == pytest.approx(before.predict(pixels).logits, abs=1e-4)
    assert isinstance(after.net, CondenseNet)
    assert after.net.config.forms
    assert after.calibration is not None  # its data set was at hand
    assert after.calibration.identity == after.identity


def test_half_of_the_classifier_is_fine_tuned_and_all_accuracies_are_shown(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert offramp("convert", model, "--out", tmp_path / "half", "--condense-classifier") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "% before," in said
    assert "% with half of the classifier," in said
    assert "% after its fine-tune" in said
    made = load(tmp_path / "half", runtime="eager")
    assert made.calibration is not None
    top1 = 100 * made.calibration.correct.mean()
    assert f"{top1:.2f} % after its fine-tune" in said
    assert made.calibrate(HALVES.open()).correct.mean() == made.calibration.correct.mean()  # of what was stored
    about: dict[str, Any] = json.loads((tmp_path / "half" / "model.json").read_text())["about"]
    assert about["converted"]["condensed_classifier"] is True


def test_the_fine_tune_lowers_the_loss_and_changes_nothing_but_the_last_layer() -> None:
    half = convert(classifier(), condense_classifier=True)
    train = HALVES.open().split("train")
    labels = torch.from_numpy(train.labels)

    def loss() -> float:
        return float(torch.nn.functional.cross_entropy(half.collect(train)[0], labels))

    before, weights = loss(), {name: value.clone() for name, value in half.net.state_dict().items()}
    seen: list[int] = []
    fine_tune(half, train, seen.append)
    assert loss() < before
    assert seen[-1] == len(train)
    changed = {name for name, value in half.net.state_dict().items() if not torch.equal(value, weights[name])}
    assert changed == {"stages.0.exit.linear.weight", "stages.0.exit.linear.bias"}


def test_a_halved_classifier_that_learns_other_classes_goes_on_reading_its_half() -> None:
    half = convert(classifier(), condense_classifier=True).net
    other = half.config.replace(num_classes=3).build()
    anew = fresh_exits(other, half, keep_answers=False)
    assert anew == ["stages.0.exit.linear.bias", "stages.0.exit.linear.weight"]
    index = "stages.0.exit.linear.index"
    assert torch.equal(other.state_dict()[index], half.state_dict()[index])


def test_a_folder_that_holds_a_model_is_not_overwritten(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert offramp("convert", model, "--out", model) == 2
    assert "holds a model already; choose another --out" in " ".join(capsys.readouterr().err.split())


def test_a_network_that_learns_no_groups_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="a network of family 'msdnet' learns no groups, so there is nothing to convert"
    ):
        convert(make_classifier())


def test_a_whole_classifier_is_not_fine_tuned() -> None:
    with pytest.raises(ConfigError, match="has not been condensed; there is nothing to fine-tune"):
        fine_tune(convert(classifier()), HALVES.open().split("train"))
