"""What a run is set up from: its network, its data, and a model to train further."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from offramp.classifier import load
from offramp.data.preprocess import Preprocessing
from offramp.errors import ArtifactError, ConfigError, DataError
from offramp.train.run import check_run_folder
from offramp.train.start import build_net, net_config, source_of
from offramp.train.trainer import build_seeded
from pictures import write_classes
from tiny import CONFIG, FINETUNE, HALVES, PREPROCESSING, install, make_classifier, open_source, run_of
from tiny import RECIPE as HALVES_RECIPE


@pytest.fixture(scope="module", autouse=True)
def _catalog() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        yield


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Images of somebody's own, of three classes."""
    return str(write_classes(tmp_path_factory.mktemp("data") / "colours", blue=8, green=8, red=8))


# ---- the network


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ArtifactError, match=r"holds something else than a run .thesis.tex.; choose another --out"):
        check_run_folder(tmp_path, resume=False)


def test_the_network_is_fitted_to_the_data() -> None:
    source = replace(HALVES, classes=("a", "b", "c", "d", "e")).open()
    assert net_config(HALVES_RECIPE, source) == CONFIG.replace(num_classes=5)
    larger = HALVES.open(preprocessing=Preprocessing(24, (0.5,) * 3, (0.5,) * 3))
    assert net_config(HALVES_RECIPE, larger) == CONFIG.replace(image_size=24, image_channels=3)


def test_a_fresh_network_depends_on_the_seed_alone() -> None:
    first, other = (build_net(replace(HALVES_RECIPE, seed=seed), HALVES.open(), None) for seed in (3, 4))
    for name, tensor in build_seeded(CONFIG.build, 3).state_dict().items():
        assert torch.equal(first.state_dict()[name], tensor)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_unknown_networks_and_data_sets_are_refused_with_near_names() -> None:
    with pytest.raises(ConfigError, match="no network is called 'tinny'; did you mean 'tiny'"):
        net_config(replace(HALVES_RECIPE, variant="tinny"), HALVES.open())
    with pytest.raises(ConfigError, match="no data set is called 'halfes'; did you mean 'halves'"):
        source_of(replace(HALVES_RECIPE, source="halfes"), None, None)


# ---- the data


def test_a_recipe_names_its_data_set_and_another_may_be_named_instead(colours: str) -> None:
    assert source_of(HALVES_RECIPE, None, None) == (HALVES, PREPROCESSING)
    spec, preprocessing = source_of(HALVES_RECIPE, "digits", None)
    assert (spec.name, preprocessing.image_size) == ("digits", 32)
    spec, preprocessing = source_of(HALVES_RECIPE, colours, None)
    assert (spec.name, spec.classes) == ("colours", ("blue", "green", "red"))
    assert preprocessing == PREPROCESSING  # that of the recipe's data set, which the network was chosen for


def test_a_data_set_that_lives_in_a_folder_wants_that_folder() -> None:
    with pytest.raises(DataError, match="name the one above it with --data-root"):
        open_source(HALVES_RECIPE, "cifar10")


def test_a_recipe_without_a_data_set_wants_one_named() -> None:
    with pytest.raises(ConfigError, match="name their folder, or a data set, with --data"):
        source_of(FINETUNE, None, make_classifier())


def test_images_of_a_model_that_is_trained_further_go_through_what_they_went_through(colours: str) -> None:
    init = make_classifier()
    assert source_of(FINETUNE, colours, init)[1] == PREPROCESSING
    assert source_of(FINETUNE, "digits", init)[1] == PREPROCESSING


@pytest.mark.parametrize(("size", "resize"), [(0, 20), (32, 40), (10, 12)])
def test_a_recipe_may_ask_for_another_size_and_interpolation(
    size: int, resize: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = make_classifier()
    monkeypatch.setattr(init.intake, "known", replace(PREPROCESSING, resize=20))
    recipe = replace(FINETUNE, image_size=size, interpolation="bilinear")
    found = source_of(recipe, "halves", init)[1]
    assert found == Preprocessing(size or 16, (0.4,), (0.25,), resize, "bilinear")


# ---- training a model further


def test_a_recipe_builds_a_network_or_is_given_a_model_and_never_both() -> None:
    source = HALVES.open()
    with pytest.raises(ConfigError, match=r"this recipe trains a model further; name it with --init"):
        build_net(FINETUNE, source, None)
    with pytest.raises(ConfigError, match=r"the recipe builds 'tiny' and --init brings a network of its own"):
        build_net(HALVES_RECIPE, source, make_classifier())


def test_with_the_same_classes_a_model_is_trained_further_as_it_is() -> None:
    init = make_classifier()
    net = build_net(FINETUNE, HALVES.open(), init)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, init.net.state_dict()[name]), name


def test_with_other_classes_only_the_last_layers_start_anew(colours: str) -> None:
    init = make_classifier()
    net = build_net(FINETUNE, open_source(FINETUNE, colours, init), init)
    assert net.config == CONFIG.replace(num_classes=3)
    fresh = build_seeded(net.config.build, FINETUNE.seed).state_dict()
    for name, tensor in net.state_dict().items():
        expected = fresh if ".exit.linear." in name else init.net.state_dict()
        assert torch.equal(tensor, expected[name]), name


def test_as_many_classes_of_other_names_are_other_classes() -> None:
    init = make_classifier()
    net = build_net(FINETUNE, replace(HALVES, classes=("w", "x", "y", "z")).open(), init)
    assert not torch.equal(
        net.state_dict()["stages.0.exit.linear.weight"], init.net.state_dict()["stages.0.exit.linear.weight"]
    )


def test_a_model_trained_further_says_from_which_and_keeps_what_is_frozen(colours: str, tmp_path: Path) -> None:
    init = make_classifier(storage="fp16")
    recipe = replace(FINETUNE, freeze="backbone")
    classifier = run_of(tmp_path, recipe, data=colours, init=init).train()
    assert classifier.classes == ("blue", "green", "red")
    assert classifier.about["init"] == {"identity": init.identity, "source": "halves"}
    assert classifier.about["source"]["name"] == "colours"
    assert init.identity == make_classifier(storage="fp16").identity  # which has not been touched
    for name, tensor in classifier.net.state_dict().items():
        if ".exit." not in name:
            assert torch.equal(tensor, init.net.state_dict()[name]), name


def test_a_model_may_be_trained_further_on_larger_images(colours: str, tmp_path: Path) -> None:
    recipe = replace(FINETUNE, image_size=24)
    classifier = run_of(tmp_path, recipe, data=colours, init=make_classifier()).train()
    assert classifier.preprocessing == replace(PREPROCESSING, image_size=24)
    assert classifier.net.config.image_size == 24
    assert len(load(tmp_path).predict([str(next(Path(colours).rglob("*.png")))])) == 1
