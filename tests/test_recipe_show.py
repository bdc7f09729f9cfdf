import dataclasses
import json

import pytest

from offramp.catalog import entries
from offramp.train.recipe import Recipe
from tiny import install, offramp

Capture = pytest.CaptureFixture[str]
RECIPES: dict[str, Recipe] = entries("recipes", "RECIPES")


def shown(capsys: Capture, *arguments: str) -> list[str]:
    assert offramp("recipe", "show", *arguments) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_value_is_shown_and_what_differs_from_the_default_is_marked(name: str, capsys: Capture) -> None:
    lines = shown(capsys, name)
    marks = {words[1]: words[0] == "*" for line in lines[1:] if len(words := [line[:1], *line[1:].split()]) > 1}
    for field in dataclasses.fields(Recipe):
        assert marks[field.name] == (getattr(RECIPES[name], field.name) != field.default), field.name


def test_a_line_says_value_default_and_meaning(capsys: Capture) -> None:
    lines = [" ".join(line.split()) for line in shown(capsys, "paper-cifar")]
    assert lines[0] == "field value default meaning"
    assert "* schedule multistep cosine Half a cosine down to 0, or steps." in lines
    assert "* epochs 300 Passes over the training images." in lines
    assert "decay 0.1 Factor of each such step." in lines
    assert "clip_norm 0 Largest norm of the whole gradient; 0 does not clip." in lines
    assert any(line.startswith("crop_area - Smallest and largest share of the image's area") for line in lines)
    assert any(line.startswith("nesterov true Whether") for line in lines)


def test_long_meanings_go_on_below_themselves(capsys: Capture) -> None:
    lines = shown(capsys, "paper-cifar")
    at = lines[0].index("meaning")
    place = next(row for row, line in enumerate(lines) if line.startswith("  loss_budgets"))
    assert lines[place + 1].startswith(" " * at + lines[place + 1].strip()[:5])
    whole = f"{lines[place][at:]} {lines[place + 1].strip()}"
    assert whole.endswith("distribution ends at the exit; equal: 1 for all.")
    assert max(map(len, lines)) <= 120


def test_the_evidence_follows(capsys: Capture) -> None:
    text = "\n".join(shown(capsys, "cifar10"))
    assert "\nRecipes for CIFAR.\n\ncifar10 made the model in the package: offramp train cifar10" in text
    assert "``" not in text


def test_changes_are_shown_as_training_would_take_them(capsys: Capture) -> None:
    lines = shown(capsys, "cifar10", "--set", "epochs=3", "--set", "crop_area=0.5,1", "--set", "warmup_epochs=0")
    cells = [line.split() for line in lines]
    assert any(words[:3] == ["*", "epochs", "3"] for words in cells)
    assert any(words[:4] == ["*", "crop_area", "0.5,1", "-"] for words in cells)
    assert any(words[:3] == ["warmup_epochs", "0", "Epochs"] for words in cells)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar11"], "no recipe is called 'cifar11'; did you mean 'cifar10'"),
        (["cifar10", "--set", "epoch=3"], "epoch: a recipe has no such field; did you mean 'epochs'"),
        (["cifar10", "--set", "epochs=lots"], "epochs=lots: a recipe wants int here"),
    ],
)
def test_what_training_would_refuse_is_refused(arguments: list[str], message: str, capsys: Capture) -> None:
    assert offramp("recipe", "show", *arguments) == 2
    assert capsys.readouterr().err.startswith(f"offramp: {message}")


def test_json_has_values_defaults_meanings_and_evidence(capsys: Capture) -> None:
    assert offramp("recipe", "show", "fast-cifar", "--set", "milestones=0.25", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    fields = {field.pop("field"): field for field in told["fields"]}
    wanted = dataclasses.replace(RECIPES["fast-cifar"], milestones=(0.25,))
    assert {name: field["value"] for name, field in fields.items()} == json.loads(json.dumps(wanted.to_json()))
    assert fields["cutout"] == {"value": 8, "default": 0, "meaning": "Side in pixels of a square that is blanked."}
    assert fields["epochs"]["default"] is None
    assert told["recipe"] == "fast-cifar"
    assert told["evidence"].startswith("Recipes for CIFAR.")


def test_a_recipe_from_nowhere_has_no_evidence(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    assert shown(capsys, "halves")[-1] == "* differs from the default, or has none"
