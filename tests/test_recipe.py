import dataclasses
import json
import math
from typing import Any

import pytest

from offramp.catalog import entries
from offramp.errors import ConfigError
from offramp.train.recipe import Recipe

RECIPE = Recipe(variant="net", source="data", epochs=10, batch_size=8, learning_rate=0.1, warmup_epochs=1)
RECIPES: dict[str, Recipe] = entries("recipes", "RECIPES")


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("epochs=3", "epochs", 3),
        ("learning_rate=5e-2", "learning_rate", 0.05),
        ("warmup_epochs=2", "warmup_epochs", 2.0),
        ("flip=false", "flip", False),
        ("flip=TRUE", "flip", True),
        ("variant=msdnet-digits", "variant", "msdnet-digits"),
        ("variant=a=b", "variant", "a=b"),
        ("precision=bf16", "precision", "bf16"),
        ("loss_weights=1,0.5,2", "loss_weights", (1.0, 0.5, 2.0)),
        ("loss_weights=", "loss_weights", ()),
        ("precision=fp16", "precision", "fp16"),
        ("schedule=multistep", "schedule", "multistep"),
        ("milestones=0.3,0.6", "milestones", (0.3, 0.6)),
        ("loss_budgets=normal", "loss_budgets", "normal"),
        ("accumulate=4", "accumulate", 4),
        ("crop_area=0.08,1", "crop_area", (0.08, 1.0)),
        ("randaugment=2,9", "randaugment", (2, 9)),
        ("freeze=stages:2", "freeze", "stages:2"),
    ],
)
def test_a_setting_takes_the_type_of_its_field(setting: str, field: str, value: Any) -> None:
    changed = RECIPE.override([setting])
    assert getattr(changed, field) == value
    assert type(getattr(changed, field)) is type(value)
    assert dataclasses.replace(changed, **{field: getattr(RECIPE, field)}) == RECIPE


def test_several_settings_apply_and_the_last_one_wins() -> None:
    changed = RECIPE.override(["epochs=3", "seed=4", "epochs=5"])
    assert (changed.epochs, changed.seed) == (5, 4)
    assert RECIPE.override([]) == RECIPE


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs=lots", "epochs=lots: a recipe wants int here"),
        ("epochs=1.5", "epochs=1.5: a recipe wants int here"),
        ("epochs=", "epochs=: a recipe wants int here"),
        ("learning_rate=fast", "learning_rate=fast: a recipe wants float here"),
        ("flip=1", "flip=1: a recipe wants true or false here"),
        ("loss_weights=1;2", "loss_weights=1;2: a recipe wants numbers separated by commas here"),
        ("precision=fp8", "precision=fp8: choose one of fp32, bf16, fp16"),
        ("schedule=linear", "schedule=linear: choose one of cosine, multistep"),
        ("loss_budgets=poisson", "loss_budgets=poisson: choose one of equal, uniform, normal, exponential"),
        ("interpolation=nearest", "interpolation=nearest: choose one of keep, bicubic, bilinear"),
        ("randaugment=2,9.5", "randaugment=2,9.5: a recipe wants whole numbers separated by commas here"),
        ("crop_area=small", "crop_area=small: a recipe wants numbers separated by commas here"),
        ("epoch=3", "epoch: a recipe has no such field; did you mean 'epochs'"),
        ("learning-rate=3", "learning-rate: a recipe has no such field; did you mean 'learning_rate'?"),
        ("zzz=3", "zzz: a recipe has no such field; there are: accumulate, backbone_rate, batch_size"),
        ("epochs", "'epochs': settings are written field=value"),
        ("epochs=0", "epochs=0: must be at least 1"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_in_one_line(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RECIPE.override([setting])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 1),
        ("crop_pad", -1),
        ("seed", -1),
        ("holdout_seed", -1),
        ("learning_rate", -0.1),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("warmup_epochs", -1.0),
        ("weight_decay", -1e-4),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("momentum", math.nan),
        ("label_smoothing", 1.0),
        ("ema_decay", 1.0),
        ("ema_decay", -0.5),
        ("precision", "fp8"),
        ("schedule", ""),
        ("decay", -0.1),
        ("milestones", (0.5, 1.0)),
        ("milestones", (0.0, 0.5)),
        ("milestones", (0.75, 0.5)),
        ("milestones", (math.nan,)),
        ("accumulate", 0),
        ("accumulate", 8),
        ("clip_norm", -1.0),
        ("clip_norm", math.nan),
        ("image_size", -1),
        ("crop_area", (0.5,)),
        ("crop_area", (0.5, 0.1)),
        ("crop_area", (0.0, 1.0)),
        ("crop_area", (0.5, 1.1)),
        ("color_jitter", 1.0),
        ("lighting", -0.1),
        ("randaugment", (2,)),
        ("randaugment", (0, 9)),
        ("randaugment", (2, 31)),
        ("cutout", -1),
        ("mixup", math.inf),
        ("freeze", "all"),
        ("freeze", "stages"),
        ("freeze", "stages:0"),
        ("freeze", "stages:-1"),
        ("freeze", "stages:1.5"),
        ("freeze", "backbone:1"),
        ("backbone_rate", -0.1),
        ("loss_weights", (1.0, -1.0)),
        ("momentum", 0.0),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused_by_name_and_value(field: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(RECIPE, **{field: value})
    assert str(caught.value).startswith(f"{field}={value}: ")
    assert "\n" not in str(caught.value)


def test_without_nesterov_there_may_be_no_momentum() -> None:
    assert RECIPE.override(["momentum=0", "nesterov=false"]).momentum == 0


def test_a_recipe_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPE.epochs = 3  # type: ignore[misc]


def test_its_plain_values_are_json() -> None:
    fields = json.loads(json.dumps(RECIPE.to_json()))
    assert fields["epochs"] == 10
    assert set(fields) == {field.name for field in dataclasses.fields(Recipe)}


def test_weights_of_the_loss_are_given_or_follow_from_budgets_but_not_both() -> None:
    with pytest.raises(ConfigError, match="give weights or loss_budgets, not both"):
        RECIPE.override(["loss_weights=1,2", "loss_budgets=normal"])


def test_a_recipe_without_a_network_trains_a_model_further() -> None:
    assert [name for name, recipe in RECIPES.items() if not recipe.variant] == ["finetune"]
    assert RECIPES["finetune"].source == ""


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.variant])
def test_every_recipe_names_a_network_and_a_data_set_that_fit_each_other(name: str) -> None:
    recipe = RECIPES[name]
    config = entries("nets", "VARIANTS")[recipe.variant]
    source = entries("data", "SOURCES")[recipe.source]
    if source.classes:  # those of ImageNet are the names of its folders
        assert config.num_classes == len(source.classes)
    assert config.image_channels == source.preprocessing.channels
    assert config.image_size == source.preprocessing.image_size
    assert len(recipe.loss_weights) in (0, config.num_exits)
