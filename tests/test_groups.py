from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from offramp.errors import ConfigError
from offramp.nets.base import MultiExitNet
from offramp.train.groups import finite, fresh_exits, frozen_modules, parameter_groups, train_mode
from offramp.train.recipe import Recipe
from tiny import CONFIG, RECIPE, make_net


def recipe(**changes: Any) -> Recipe:
    return replace(RECIPE, **changes)


def names_of(net: MultiExitNet, parameters: list[nn.Parameter]) -> set[str]:
    wanted = {id(parameter) for parameter in parameters}
    return {name for name, parameter in net.named_parameters() if id(parameter) in wanted}


def exits_of(net: MultiExitNet) -> set[str]:
    return {name for name, _ in net.named_parameters() if ".exit." in name}


# ---- freezing


@pytest.mark.parametrize(
    ("freeze", "stages"), [("none", ()), ("backbone", (0, 1, 2)), ("stages:1", (0,)), ("stages:3", (0, 1, 2))]
)
def test_frozen_are_whole_stages_but_for_their_exits(freeze: str, stages: tuple[int, ...]) -> None:
    net = make_net()
    frozen = {id(part) for module in frozen_modules(net, freeze) for part in module.parameters()}
    expected = {
        id(parameter)
        for name, parameter in net.named_parameters()
        if ".exit." not in name and int(name.split(".")[1]) in stages
    }
    assert frozen == expected


def test_more_stages_than_there_are_cannot_be_frozen() -> None:
    with pytest.raises(ConfigError, match=r"^freeze=stages:4: this network has 3 stages$"):
        frozen_modules(make_net(), "stages:4")


def test_frozen_norms_go_on_using_their_statistics_while_all_else_trains() -> None:
    net = make_net()
    frozen = frozen_modules(net, "stages:1")
    train_mode(net, frozen)
    for name, module in net.named_modules():
        below = name.startswith("stages.0.") and ".exit" not in name
        assert module.training != below, name


# ---- groups


def test_without_freezing_and_with_equal_rates_there_is_one_group_of_everything() -> None:
    net = make_net()
    (group,) = parameter_groups(net, RECIPE)
    assert group["scale"] == 1
    assert names_of(net, group["params"]) == {name for name, _ in net.named_parameters()}


def test_frozen_parameters_are_in_no_group_and_get_no_gradient() -> None:
    net = make_net()
    (group,) = parameter_groups(net, recipe(freeze="backbone"))
    assert names_of(net, group["params"]) == exits_of(net)
    assert {name for name, parameter in net.named_parameters() if parameter.requires_grad} == exits_of(net)


def test_the_exits_and_the_backbone_have_their_own_rates() -> None:
    net = make_net()
    exits, backbone = parameter_groups(net, recipe(backbone_rate=0.1))
    assert (exits["scale"], backbone["scale"]) == (1, 0.1)
    assert names_of(net, exits["params"]) == exits_of(net)
    assert names_of(net, backbone["params"]) == {name for name, _ in net.named_parameters()} - exits_of(net)


def test_a_backbone_of_which_some_is_frozen_learns_with_the_rest() -> None:
    net = make_net()
    exits, backbone = parameter_groups(net, recipe(backbone_rate=0.1, freeze="stages:2"))
    assert names_of(net, exits["params"]) == exits_of(net)
    assert names_of(net, backbone["params"]) == {
        name for name, _ in net.named_parameters() if name.startswith("stages.2.") and ".exit." not in name
    }
    (alone,) = parameter_groups(make_net(), recipe(backbone_rate=0.1, freeze="backbone"))
    assert alone["scale"] == 1


# ---- new last layers


class Plain(MultiExitNet):
    """Stages whose exit is the linear layer itself."""

    def __init__(self, classes: int, stages: int = 2) -> None:
        super().__init__()
        self.config = CONFIG.replace(num_classes=classes)
        self.stages = nn.ModuleList(
            nn.ModuleDict({"body": nn.Linear(4, 4), "exit": nn.Linear(4, classes)}) for _ in range(stages)
        )

    def start(self, images: Tensor) -> tuple[Tensor | None, ...]:
        return (images,)

    def _direct(self, k: int, images: Tensor) -> Tensor:
        raise AssertionError(k, images.shape)


def built(seed: int, **changes: Any) -> MultiExitNet:
    torch.manual_seed(seed)
    return CONFIG.replace(**changes).build()


def check_filled(net: MultiExitNet, initial: MultiExitNet, own: dict[str, Tensor], anew: set[str]) -> None:
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, own[name] if name in anew else initial.state_dict()[name]), name


def test_with_the_same_classes_all_weights_are_taken_over() -> None:
    net, initial = built(1), make_net()
    assert fresh_exits(net, initial, keep_answers=True) == []
    check_filled(net, initial, {}, set())


@pytest.mark.parametrize("classes", [4, 7])
def test_with_other_classes_only_the_last_layers_start_anew(classes: int) -> None:
    net, initial = built(1, num_classes=classes), make_net()
    own = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    anew = fresh_exits(net, initial, keep_answers=False)
    assert anew == sorted(f"stages.{k}.exit.linear.{kind}" for k in range(3) for kind in ("weight", "bias"))
    check_filled(net, initial, own, set(anew))


def test_an_exit_may_be_nothing_but_its_last_layer() -> None:
    net, initial = Plain(3), Plain(5)
    own = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    anew = fresh_exits(net, initial, keep_answers=False)
    assert anew == ["stages.0.exit.bias", "stages.0.exit.weight", "stages.1.exit.bias", "stages.1.exit.weight"]
    check_filled(net, initial, own, set(anew))


def test_weights_fit_images_of_another_size() -> None:
    net, initial = built(1, image_size=24), make_net()
    assert fresh_exits(net, initial, keep_answers=True) == []
    assert net(torch.zeros(2, 1, 24, 24)).shape == (3, 2, 4)


@pytest.mark.parametrize(
    ("net", "initial", "what"),
    [
        (built(1, channels=8), make_net(), r"stages\.0\..*"),
        (built(1, image_channels=3), make_net(), r"stages\.0\..*"),
        (built(1, exits=2), make_net(), r"stages\.1\..*"),
        (Plain(3, stages=3), Plain(3), r"stages\.2\.body\.weight"),
        (Plain(3), Plain(3, stages=3), "other layers"),
    ],
)
def test_another_architecture_is_refused_by_the_first_layer_that_differs(
    net: MultiExitNet, initial: MultiExitNet, what: str
) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(
        ConfigError, match=rf"^the initial model has another architecture \({what}\); train a network of"
    ):
        fresh_exits(net, initial, keep_answers=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


# ---- sound weights


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", ["stages.2.exit.linear.bias", "stages.0.exit.features.0.1.running_var"])
def test_a_single_value_that_is_no_number_is_noticed(place: str, value: float) -> None:
    net = make_net()
    assert finite(net)
    net.state_dict()[place][1] = value
    assert not finite(net)
