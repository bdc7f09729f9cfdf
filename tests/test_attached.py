"""Exits attached to classifiers that have none."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import offramp
from offramp.classifier import Classifier
from offramp.data.preprocess import Preprocessing
from offramp.errors import ArtifactError, ConfigError
from offramp.measure.macs import staged_macs
from offramp.nets.attached import VARIANTS, AttachedConfig, attach_exits
from offramp.nets.attached.net import AttachedExit
from offramp.torchvision_import import import_torchvision
from offramp.train.groups import fresh_exits, frozen_modules
from shapes_only import parameters, shapes_only

CLASSES = ("a", "b", "c")
PREPROCESSING = Preprocessing(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Own(nn.Module):
    """Somebody's classifier: a skip over the cut, a size asked for, a mask of weights, code that cannot be traced inside."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.early = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.late = Branching()
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.drop = nn.Dropout(0.1)
        self.classify = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        features = self.early(stem) * self.scale
        features = self.late(features) + stem
        pooled = features.reshape(images.shape[0], 4, -1).mean(-1)
        return self.classify(self.drop(pooled))  # type: ignore[no-any-return]


class Branching(nn.Module):
    """Looks at values, which no tracer can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.times = 1.0

    def forward(self, features: Tensor) -> Tensor:
        return self.times * self.conv(features) if bool(features.isfinite().all()) else features


@pytest.fixture
def own(shake: Callable[[nn.Module], None]) -> Own:
    torch.manual_seed(0)
    module = Own()
    shake(module)
    return module.eval()


def attached(module: nn.Module, *at: str, **said: Any) -> Any:
    return attach_exits(module, at, image_size=8, **said).eval()


def test_the_last_exit_gives_what_the_classifier_gives(own: Own) -> None:
    net = attached(own, "stem", "early", "late")
    images = torch.randn(5, 3, 8, 8)
    with torch.inference_mode():
        logits, expected = net(images), own(images)
        torch.testing.assert_close(logits[-1], expected, rtol=0, atol=0)
        for k in range(4):
            torch.testing.assert_close(net.direct(k, images), logits[k])
    assert net.config.num_exits == 4
    assert net.config.num_classes == 3


def test_a_stage_computes_only_what_no_earlier_one_has(own: Own) -> None:
    net = attached(own, "early", "late")
    conv = 9 * 4 * 4 * 64
    stem, exits = 9 * 3 * 4 * 64, 4 * 3
    assert staged_macs(net).at_exit == (stem + conv + exits, stem + 2 * conv + 2 * exits, stem + 2 * conv + 3 * exits)


def test_what_later_stages_read_is_taken_by_rows(own: Own) -> None:
    net = attached(own, "early")
    images = torch.randn(3, 3, 8, 8)
    with torch.inference_mode():
        state, _ = net.step(0, net.start(images))
        assert len(state) == 3  # the images, whose size is asked for later; the stem, for the skip; the early features
        _, some = net.step(1, net.take(state, torch.tensor([2, 0])))
        torch.testing.assert_close(some, own(images)[[2, 0]])


def test_the_modules_weights_are_used_and_its_mode_is_kept(own: Own) -> None:
    for training in (True, False):
        own.train(training)
        net = attach_exits(own, ["early"], image_size=8)
        assert {part.training for part in (*own.modules(), *net.modules())} == {training}
    own.train()
    own.early[1].eval()
    net = attach_exits(own, ["early"], image_size=8)
    assert not own.early[1].training
    assert all(part.training for part in net.modules() if part is not own.early[1])
    assert {id(weight) for weight in own.parameters()} < {id(weight) for weight in net.parameters()}


@pytest.mark.parametrize(
    ("shape", "channels_at", "channels", "axis"),
    [
        ((4, 6, 6), "auto", 4, 1), ((9, 5), "auto", 5, 2), ((6, 6, 7), "last", 7, 3), ((4, 9), "first", 4, 1),
        ((8,), "auto", 8, 1),
    ],
)  # fmt: skip
def test_an_exit_finds_the_channels(shape: tuple[int, ...], channels_at: Any, channels: int, axis: int) -> None:
    class Shaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make, self.end = Make(shape), nn.Linear(3, 2)

        def forward(self, images: Tensor) -> Tensor:
            return self.end(self.make(images).flatten(1)[:, :3])  # type: ignore[no-any-return]

    net = attached(Shaped(), "make", channels_at=channels_at)
    head = net.stages[0].exit
    assert isinstance(head, AttachedExit)
    assert head.linear.in_features == channels
    assert head.axis == axis
    with torch.inference_mode():
        assert net(torch.randn(2, 3, 8, 8)).shape == (2, 2, 2)


class Make(nn.Module):
    """Features of a shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3)).reshape(-1, *[1] * len(self.shape)).expand(-1, *self.shape)


class Flagged(Own):
    """Drops out by a flag, as a function."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(images, 0.5, self.training))


class Making(Own):
    """Adds a tensor that it makes itself."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images + torch.ones(1))


class Twice(Own):
    """Runs a part twice, on both sides of another."""

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        return self.classify(self.late(self.early(self.late(stem))).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "at", "message"),
    [
        (Own, ("eary",), "at: the module has no part called 'eary'"),
        (Own, ("late", "early"), r"at=\('late', 'early'\): these run in another order; write early, late"),
        (Own, ("early", "early"), "names a module twice"),
        (Own, ("early", "classify"), "at: 'classify' gives the answer itself, which is the last exit anyway"),
        (Own, ("late.conv",), r"at=\('late.conv',\): the code around these modules cannot be traced"),
        (Flagged, ("early",), "does something else in training; make that a module of its own"),
        (Making, ("early",), "cannot be traced .a tensor is made there that no module holds"),
        (Twice, ("late",), "'late' runs 2 times; an exit stands behind a module that runs once"),
        (Twice, ("early",), "the weights of 'late' are used on both sides of a cut"),
        (lambda: Own().early, ("0",), "does not take images of 3x8x8"),
        (lambda: nn.Conv2d(3, 4, 3), (), "the module gives shape"),
    ],
)
def test_what_cannot_be_done_is_said(make: Callable[[], nn.Module], at: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attached(make(), *at)


def test_impossible_configs_are_refused() -> None:
    good: dict[str, Any] = {"backbone": "own", "image_size": 8}
    for changes, message in (
        ({"backbone": "os:system"}, "backbone='os:system': must be timm:NAME, torchvision:NAME or own"),
        ({"backbone": "timm:"}, "backbone='timm:': must be timm:NAME, torchvision:NAME or own"),
        ({"at": ("",)}, r"at=\('',\): give the names of modules"),
        ({"channels_at": "middle"}, "channels_at='middle': choose one of auto, first, last"),
        ({"least_size": -1}, "least_size=-1"),
    ):
        with pytest.raises(ConfigError, match=message):
            AttachedConfig(**(good | changes))
    with pytest.raises(ConfigError, match=r"timm .* does not build it"):
        AttachedConfig(backbone="timm:no_such_net").build()
    with pytest.raises(ConfigError, match=r"torchvision .* does not build it .*images of 3 channels"):
        AttachedConfig(backbone="torchvision:resnet18", image_channels=1).build()


def test_a_module_of_ones_own_is_passed_again_when_its_model_is_loaded(own: Own, tmp_path: Path) -> None:
    net = attached(own, "early")
    Classifier(net, CLASSES, PREPROCESSING).save(tmp_path / "model")
    images = torch.randn(2, 3, 8, 8)
    with pytest.raises(ArtifactError, match=r"pass it again in Python: offramp.load\(PATH, backbone=MODULE\)"):
        offramp.load(tmp_path / "model")
    fresh = Own()
    before = fresh.stem.weight.clone()
    loaded = offramp.load(tmp_path / "model", backbone=fresh, runtime="eager")
    with torch.inference_mode():
        torch.testing.assert_close(loaded.net(images), net(images))
    assert torch.equal(fresh.stem.weight, before)
    with torch.inference_mode():
        again = offramp.load(tmp_path / "model", backbone=net, runtime="eager").net(images)
        torch.testing.assert_close(again, net(images))
    other = Own()
    other.early = nn.Sequential(nn.Conv2d(4, 4, 1))
    with pytest.raises(
        ArtifactError, match="the weights do not fit this backbone, which has to be as own was when it was saved"
    ):
        offramp.load(tmp_path / "model", backbone=other)
    with pytest.raises(ConfigError, match="no exits were attached to this network of family 'msdnet'"):
        offramp.load("cifar10", backbone=own)


def test_two_modules_of_the_same_weights_are_told_apart(own: Own) -> None:
    class Other(Own):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + 1

    other = Other()
    other.load_state_dict(own.state_dict())
    torch.manual_seed(0)
    first = Classifier(attached(own, "early"), CLASSES, PREPROCESSING)
    torch.manual_seed(0)
    second = Classifier(attached(other, "early"), CLASSES, PREPROCESSING)
    assert first.net.config == second.net.config
    assert first.identity != second.identity
    scaled = Own()
    scaled.load_state_dict(own.state_dict())
    scaled.late.times = 3.0
    torch.manual_seed(0)
    assert Classifier(attached(scaled, "early"), CLASSES, PREPROCESSING).identity != first.identity


def test_exits_are_trained_while_the_backbone_keeps_its_answers(own: Own) -> None:
    net = attached(own, "early")
    for module in frozen_modules(net, "backbone"):
        module.requires_grad_(False)
    learning = {name for name, weight in net.named_parameters() if weight.requires_grad}
    assert learning == {
        f"stages.0.exit.{name}" for name in ("norm.weight", "norm.bias", "linear.weight", "linear.bias")
    }


def test_other_classes_start_all_last_layers_anew() -> None:
    config = AttachedConfig(backbone="timm:resnet10t", at=("layer1",), image_size=32, num_classes=5)
    initial = config.build()
    net = initial.rebuilt(config.replace(num_classes=4))
    anew = fresh_exits(net, initial, keep_answers=False)
    assert [name.split(".", 2)[:2] for name in anew] == [
        ["stages", "0"],
        ["stages", "0"],
        ["stages", "1"],
        ["stages", "1"],
    ]
    with torch.inference_mode():
        assert net.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 2, 4)


def test_networks_of_timm_are_recognised_and_built_again(tmp_path: Path) -> None:
    import_torchvision("torchvision", "this test")
    import timm

    module = timm.create_model("resnet10t", num_classes=3).eval()
    net = attach_exits(module, ["layer1", "layer3"], image_size=32).eval()
    assert net.config.backbone == f"timm:resnet10t@{timm.__version__}"
    Classifier(net, CLASSES, Preprocessing(32, (0.5,) * 3, (0.5,) * 3)).save(tmp_path / "model")
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(offramp.load(tmp_path / "model", "eager").net(images)[-1], module(images))
    changed = timm.create_model("resnet10t", num_classes=3, act_layer="gelu")
    assert attach_exits(changed, ["layer1"], image_size=32).config.backbone == "own"


def test_a_named_network_has_to_be_the_one_that_is_given() -> None:
    models = import_torchvision("torchvision.models", "this test")
    module = models.resnet18(num_classes=3)
    net = attach_exits(module, ["layer1"], image_size=32, backbone="torchvision:resnet18")
    assert net.config.backbone.startswith("torchvision:resnet18@")
    with pytest.raises(ConfigError, match=r"builds another network \(Missing key.*\); leave it out"):
        attach_exits(module, ["layer1"], image_size=32, backbone="torchvision:resnet34")
    module.relu = nn.SiLU()
    with pytest.raises(ConfigError, match=r"builds another network \(other layers\); leave it out"):
        attach_exits(module, ["layer1"], image_size=32, backbone="torchvision:resnet18")
    with pytest.raises(
        ConfigError, match=r"^backbone=torchvision:raft_small@.* does not build it \(it has no classifier"
    ):
        attach_exits(module, ["layer1"], image_size=32, backbone="torchvision:raft_small")


@pytest.mark.parametrize(
    ("name", "millions"), [("alexnet", 61.1), ("googlenet", 6.6), ("vgg-16", 138.4), ("mobilenet", 4.2)]
)
def test_networks_that_papers_compare_with_have_their_parameters(name: str, millions: float) -> None:
    with shapes_only():
        assert round(parameters(VARIANTS[name].build()) / 1e6, 1) == millions


class Overwriting(Own):
    """Runs a part for what it does to its input."""

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        torch.nn.Module.__call__(self.early[2], stem)
        return self.classify(self.late(stem).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_classifier_that_would_answer_otherwise_is_refused() -> None:
    module = Overwriting()
    module.early[2] = nn.ReLU(inplace=True)
    with pytest.raises(ConfigError, match="cut there, the classifier answers otherwise"):
        attached(module, "late")


def test_an_exit_before_a_part_that_overwrites_its_input_can_be_trained() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    net = attach_exits(module, ["1"], image_size=8).train()
    torch.autograd.backward(net(torch.randn(4, 3, 8, 8)).square().mean())
    assert all(weight.grad is not None for weight in net.parameters())


def test_a_part_that_overwrites_what_it_reads_leaves_the_state_as_it_is() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ELU(inplace=True), nn.Flatten(), nn.Linear(144, 3)).eval()
    net = attached(module, "0")
    images = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        state, _ = net.step(0, net.start(images))
        first, second = (net.step(1, state)[1] for _ in range(2))
    assert torch.equal(first, second)
    assert [stage.overwrites for stage in net.stages] == [False, True]


def test_a_module_of_ones_own_is_tried_with_images_of_another_size() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    net = attached(module, "0")
    with pytest.raises(ConfigError, match="does not take images of 3x10x10"):
        net.rebuilt(net.config.replace(image_size=10))


def test_a_module_of_ones_own_forgets_its_classes_when_it_learns_as_many_others(own: Own) -> None:
    net = attached(own, "early")
    other = net.rebuilt(net.config)
    anew = fresh_exits(other, net, keep_answers=False)
    assert {name.rpartition(".")[0] for name in anew} == {"stages.0.exit.linear", "stages.1.body.classify"}
    was, now = net.state_dict(), other.state_dict()
    assert {name for name in was if not torch.equal(was[name], now[name])} == set(anew)


def test_a_module_that_cannot_be_copied_is_refused(own: Own, tmp_path: Path) -> None:
    Classifier(attached(own, "early"), CLASSES, PREPROCESSING).save(tmp_path / "model")
    fresh = Own()
    vars(fresh)["lock"] = threading.Lock()
    with pytest.raises(ConfigError, match=r"the module cannot be copied \(cannot pickle .*\); pass one that can"):
        offramp.load(tmp_path / "model", backbone=fresh)


def test_exits_are_attached_in_inference_mode_too(own: Own) -> None:
    with torch.inference_mode():
        net = attached(own, "early")
        assert net(torch.randn(2, 3, 8, 8)).shape == (2, 2, 3)


def test_all_layers_that_know_the_classes_forget_them_and_no_others() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool = nn.Conv2d(3, 4, 3), nn.Flatten()
            self.first, self.second, self.gate = nn.Linear(144, 3), nn.Linear(144, 3), nn.Linear(144, 144)

        def forward(self, images: Tensor) -> Tensor:
            features = self.gate(self.pool(self.conv(images)))
            return self.first(features) + self.second(features)  # type: ignore[no-any-return]

    net = attached(TwoHeads(), "conv")
    other = net.rebuilt(net.config)
    was, now = net.state_dict(), other.state_dict()
    changed = {name.rpartition(".")[0] for name in was if not torch.equal(was[name], now[name])}
    assert changed == {"stages.0.exit.linear", "stages.1.body.first", "stages.1.body.second"}
    assert {name.rpartition(".")[0] for name in fresh_exits(other, net, keep_answers=False)} == changed


def test_a_plain_tensor_that_a_module_holds_becomes_part_of_its_piece() -> None:
    class Centred(Own):
        def __init__(self) -> None:
            super().__init__()
            vars(self)["mean"] = torch.full((1,), 0.5)

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images - vars(self)["mean"])

    module = Centred().eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(attached(module, "early")(images)[-1], module(images))


def test_a_network_of_timm_for_images_that_its_name_does_not_take_is_ones_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import_torchvision("torchvision", "this test")
    import timm

    module = timm.create_model("resnet10t", num_classes=3)

    def refuses(images: Tensor) -> Tensor:
        raise AssertionError("Input height (256) doesn't match model (224).")

    twin = timm.create_model("resnet10t", num_classes=3)
    monkeypatch.setattr(twin, "forward", refuses)
    monkeypatch.setattr("offramp.nets.attached.backbones.build_backbone", lambda _config: twin)
    assert attach_exits(module, ["layer1"], image_size=32).config.backbone == "own"
    with pytest.raises(ConfigError, match=r"builds another network \(Input height"):
        attach_exits(module, ["layer1"], image_size=32, backbone="timm:resnet10t")


def test_what_is_no_list_of_names_or_no_module_is_refused(own: Own, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"at='early': give a list of names, such as at=\['early'\]"):
        attach_exits(own, "early", image_size=8)
    Classifier(attached(own, "early"), CLASSES, PREPROCESSING).save(tmp_path / "model")
    wrong: Any
    for wrong in (Own, "torchvision:resnet18"):
        with pytest.raises(ConfigError, match=r"backbone=.*: pass the module itself, an instance of nn.Module"):
            offramp.load(tmp_path / "model", backbone=wrong)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"module": "resnet18"}, "module='resnet18': pass the module itself"),
        ({"module": Own().half()}, "weights that are not float32; give it as module.float()"),
        ({"image_size": 0}, "image_size=0: a network with attached exits wants a whole number of at least 1"),
        ({"image_size": 32.5}, "image_size=32.5: a network with attached exits wants a whole number"),
        ({"image_channels": True}, "image_channels=True: a network with attached exits wants a whole number"),
    ],
)
def test_what_no_exits_can_be_attached_to_is_refused(own: Own, said: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"module": own, "at": ["early"], "image_size": 8} | said
    with pytest.raises(ConfigError) as caught:
        attach_exits(**given)
    assert message in str(caught.value)


def test_another_module_than_exits_were_attached_to_is_told_from_a_wrong_cut(own: Own, tmp_path: Path) -> None:
    Classifier(attached(own, "early"), CLASSES, PREPROCESSING).save(tmp_path / "model")
    with pytest.raises(
        ConfigError, match=r"backbone: not such a module as .* \(at: the module has no part called 'early'"
    ):
        offramp.load(tmp_path / "model", backbone=nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 3)))


def test_an_ensemble_with_a_module_of_ones_own_cannot_be_saved_and_leaves_nothing(own: Own, tmp_path: Path) -> None:
    both = [Classifier(attached(module, "early"), CLASSES, PREPROCESSING) for module in (own, Own())]
    with pytest.raises(ConfigError, match=r"save its members, and make the ensemble anew"):
        offramp.ensemble(*both).save(tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_weights_that_do_not_fit_are_told_in_one_short_line() -> None:
    import_torchvision("torchvision", "this test")
    import timm

    config = AttachedConfig(backbone="timm:resnet10t", at=("layer1",), image_size=32, num_classes=3)
    other = attach_exits(timm.create_model("resnet26", num_classes=3), ["layer1"], image_size=32)
    with pytest.raises(
        ArtifactError, match=r"which has to be as timm:resnet10t was when it was saved \(.* …\)"
    ) as caught:
        config.build().load_state_dict(other.state_dict())
    assert len(str(caught.value)) < 400


def test_names_that_could_be_addresses_are_refused() -> None:
    for name in ("timm:hf-hub:somebody/net", "timm:local-dir:somewhere", "torchvision:a/b"):
        with pytest.raises(ConfigError, match="must be timm:NAME, torchvision:NAME or own"):
            AttachedConfig(backbone=name)
