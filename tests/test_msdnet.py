"""The lazy network: what runs when, and that it says the same as the plain one."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from offramp.errors import ConfigError
from offramp.nets.msdnet import MSDNet, MSDNetConfig, plain_plan
from offramp.nets.msdnet.net import Stage

Shake = Callable[[nn.Module], None]
Key = tuple[int, int]

SMALL: dict[str, Any] = {"channels": 4, "growth_rate": 2, "image_channels": 1, "num_classes": 3, "image_size": 16}
CONFIGS = {
    "even": MSDNetConfig(exits=4, base=2, step=2, **SMALL),
    "linear": MSDNetConfig(exits=4, base=1, step=1, spacing="linear", **SMALL),
    "linear, without transitions": MSDNetConfig(exits=3, base=1, step=2, spacing="linear", reduction=0, **SMALL),
    "min": MSDNetConfig(exits=3, base=3, step=2, pruning="min", **SMALL),
    "without bottlenecks": MSDNetConfig(exits=3, base=2, step=1, bottleneck=False, **SMALL),
    "large stem": MSDNetConfig(exits=3, base=2, step=2, stem="large", **(SMALL | {"image_size": 64})),
    "unused cell": MSDNetConfig(exits=3, base=2, step=1, **(SMALL | {"growth_rate": 4})),
    "one scale": MSDNetConfig(exits=3, base=1, step=1, scale_factors=(1,), bottleneck_factors=(1,), **SMALL),
    "one exit": MSDNetConfig(exits=1, base=5, step=1, **SMALL),
}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> MSDNetConfig:
    return CONFIGS[request.param]


def images_for(config: MSDNetConfig, count: int = 3) -> Tensor:
    return torch.randn(count, config.image_channels, config.image_size, config.image_size)


def pair(config: MSDNetConfig, shake: Shake) -> tuple[MSDNet, MSDNet]:
    """The lazy network, and the plain one with the same weights in every cell and exit they share; in eval mode."""
    lazy, plain = MSDNet(config), MSDNet(config, plain_plan)
    shake(lazy)
    cells = dict(plain.cells())
    for key, cell in lazy.cells():
        cells[key].load_state_dict(cell.state_dict())
    for ours, theirs in zip(stages(lazy), stages(plain), strict=True):
        theirs.exit.load_state_dict(ours.exit.state_dict())
    return lazy.eval(), plain.eval()


def stages(net: MSDNet) -> Iterator[Stage]:
    for stage in net.stages:
        assert isinstance(stage, Stage)
        yield stage


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def record_cells(net: MSDNet) -> list[Key]:
    """A list that grows with each cell that runs."""
    ran: list[Key] = []
    for key, cell in net.cells():

        def note(_cell: nn.Module, _inputs: Any, _output: Any, key: Key = key) -> None:
            ran.append(key)

        cell.register_forward_hook(note)
    return ran


def reached_from(net: MSDNet, k: int, images: Tensor) -> set[Key]:
    """The cells that the gradient of exit k's logits reaches: what exit k depends on, seen without any plan."""
    net.zero_grad(set_to_none=True)
    torch.autograd.backward(list(net.walk(images))[k].sum())
    return {key for key, cell in net.cells() if any(weight.grad is not None for weight in cell.parameters())}


def test_each_stage_runs_exactly_the_cells_that_no_earlier_exit_needed(config: MSDNetConfig) -> None:
    lazy, plain, images = MSDNet(config).eval(), MSDNet(config, plain_plan).eval(), images_for(config, 1)
    needed = [reached_from(plain, k, images) for k in range(config.exits)]
    ran = record_cells(lazy)
    state, before = lazy.start(images), set[Key]()
    for k in range(config.exits):
        ran.clear()
        state, _ = lazy.step(k, state)
        assert len(ran) == len(set(ran))
        assert set(ran) == needed[k] - before
        before |= needed[k]


def test_going_straight_to_an_exit_runs_exactly_the_cells_it_needs(config: MSDNetConfig) -> None:
    lazy, plain, images = MSDNet(config).eval(), MSDNet(config, plain_plan).eval(), images_for(config, 1)
    ran = record_cells(lazy)
    for k in range(config.exits):
        ran.clear()
        lazy.direct(k, images)
        assert len(ran) == len(set(ran))
        assert set(ran) == reached_from(plain, k, images)


def test_going_straight_to_an_exit_runs_no_other_exit(config: MSDNetConfig) -> None:
    net = MSDNet(config).eval()
    ran: list[int] = []
    for k, stage in enumerate(stages(net)):
        stage.exit.register_forward_hook(lambda *_, k=k: ran.append(k))
    net.direct(config.exits - 1, images_for(config))
    assert ran == [config.exits - 1]


def test_walk_computes_only_the_cells_of_the_exits_that_are_asked_for(config: MSDNetConfig) -> None:
    net = MSDNet(config).eval()
    ran = record_cells(net)
    first = next(stages(net))
    walk = net.walk(images_for(config))
    assert ran == []
    next(walk)
    assert set(ran) == {cell.key for cell in first.plan.cells}


def test_no_cell_is_built_that_no_exit_needs(config: MSDNetConfig) -> None:
    net, images = MSDNet(config).eval(), images_for(config, 1)
    needed = set[Key]().union(*(reached_from(net, k, images) for k in range(config.exits)))
    assert {key for key, _ in net.cells()} == needed


def test_the_lazy_network_says_what_the_plain_one_says(config: MSDNetConfig, shake: Shake) -> None:
    lazy, plain = pair(config, shake)
    images = images_for(config)
    close(lazy(images), plain(images))


def test_it_says_so_in_training_too_and_moves_the_norms_alike(config: MSDNetConfig, shake: Shake) -> None:
    lazy, plain = pair(config, shake)
    images = images_for(config, 4)
    close(lazy.train()(images), plain.train()(images))
    cells = dict(plain.cells())
    for key, cell in lazy.cells():
        for name, buffer in cell.named_buffers():
            close(buffer, cells[key].get_buffer(name))


def test_going_straight_to_an_exit_gives_its_logits(config: MSDNetConfig, shake: Shake) -> None:
    net, plain = pair(config, shake)
    images = images_for(config)
    every = net(images)
    for k in range(config.exits):
        close(net.direct(k, images), every[k])
        close(plain.direct(k, images), every[k])


def test_taking_rows_and_stepping_is_stepping_and_taking_rows(config: MSDNetConfig, shake: Shake) -> None:
    net, _ = pair(config, shake)
    rows = torch.tensor([3, 0, 4])
    state = net.start(images_for(config, 5))
    for k in range(config.exits):
        _, of_taken = net.step(k, net.take(state, rows))
        state, logits = net.step(k, state)
        close(of_taken, logits[rows])


def test_a_state_holds_the_scales_that_are_still_read_and_no_other(config: MSDNetConfig) -> None:
    net = MSDNet(config).eval()
    state = net.start(images_for(config))
    gone = set[int]()
    for k in range(config.exits):
        state, _ = net.step(k, state)
        assert len(state) == config.num_scales
        empty = {scale for scale, part in enumerate(state) if part is None}
        assert gone <= empty
        gone = empty
        for scale, part in enumerate(state):
            if part is None:
                continue
            without = tuple(None if one == scale else other for one, other in enumerate(state))
            with pytest.raises((TypeError, AttributeError, AssertionError)):
                _finish(net, k, without)
    assert gone == set(range(config.num_scales))


def _finish(net: MSDNet, k: int, state: tuple[Tensor | None, ...]) -> None:
    for later in range(k + 1, net.num_exits):
        state, _ = net.step(later, state)


def test_finer_scales_are_dropped_on_the_way() -> None:
    net = MSDNet(MSDNetConfig(exits=4, base=3, step=3, **SMALL)).eval()
    state = net.start(torch.randn(1, 1, 16, 16))
    alive = []
    for k in range(4):
        state, _ = net.step(k, state)
        alive.append([scale for scale, part in enumerate(state) if part is not None])
    assert alive == [[0, 1, 2], [1, 2], [2], []]


@pytest.mark.parametrize("size", [4, 5, 16, 17, 33, 40])
@pytest.mark.parametrize("name", ["even", "linear", "min"])
def test_images_of_other_sizes_work(name: str, size: int, shake: Shake) -> None:
    config = CONFIGS[name]
    lazy, plain = pair(config, shake)
    images = torch.randn(2, 1, size, size + 3)
    logits = lazy(images)
    assert logits.shape == (config.exits, 2, 3)
    close(logits, plain(images))
    close(lazy.direct(config.exits - 1, images), logits[-1])


@pytest.mark.parametrize("size", [16, 33, 97, 224])
def test_images_of_other_sizes_work_behind_a_large_stem(size: int) -> None:
    net = MSDNet(CONFIGS["large stem"]).eval()
    assert net(torch.randn(1, 1, size, size)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("even", (2, 1, 3, 16), "images of 3x16 pixels: this network wants at least 4 a side"),
        ("even", (2, 1, 16, 3), "images of 16x3 pixels: this network wants at least 4 a side"),
        ("large stem", (2, 1, 15, 15), "images of 15x15 pixels: this network wants at least 16 a side"),
        ("even", (2, 3, 16, 16), "images of shape (2, 3, 16, 16): this network wants (N, 1, H, W)"),
        ("even", (1, 16, 16), "images of shape (1, 16, 16): this network wants (N, 1, H, W)"),
    ],
)
def test_images_it_cannot_take_are_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    net, images = MSDNet(CONFIGS[name]), torch.zeros(shape)
    for use in (net, net.start, lambda images: net.direct(0, images), lambda images: next(net.walk(images))):
        with pytest.raises(ConfigError) as caught:
            use(images)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@st.composite
def small_configs(draw: st.DrawFn) -> MSDNetConfig:
    scales = draw(st.integers(1, 4))
    factors = st.lists(st.integers(1, 4), min_size=scales, max_size=scales).map(tuple)
    return MSDNetConfig(
        exits=draw(st.integers(1, 4)),
        base=draw(st.integers(1, 4)),
        step=draw(st.integers(1, 2)),
        spacing=draw(st.sampled_from(["even", "linear"])),
        channels=draw(st.integers(2, 5)),
        growth_rate=draw(st.sampled_from([2, 4])),
        scale_factors=draw(factors),
        bottleneck_factors=draw(factors),
        bottleneck=draw(st.booleans()),
        reduction=draw(st.sampled_from([0, 0.5, 1.0])),
        pruning=draw(st.sampled_from(["max", "min"])),
        stem=draw(st.sampled_from(["small", "large"])),
        image_channels=draw(st.sampled_from([1, 3])),
        image_size=draw(st.sampled_from([32, 45])),
        num_classes=2,
    )


@given(config=small_configs(), seed=st.integers(0, 99))
def test_every_combination_of_options_builds_and_says_what_the_plain_network_says(
    config: MSDNetConfig, seed: int, shake: Shake
) -> None:
    torch.manual_seed(seed)
    lazy, plain = pair(config, shake)
    images = images_for(config, 2)
    with torch.inference_mode():
        every = lazy(images)
        assert every.shape == (config.exits, 2, 2)
        close(every, plain(images))
        for k in range(config.exits):
            close(lazy.direct(k, images), every[k])
