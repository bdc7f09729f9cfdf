import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bundles import run_all
from networks_of_c import Window, in_bytes, network_of, run_in_torch, stages_of
from offramp_runtime.cancellation import Cancellation
from offramp_runtime.errors import ConfigError
from offramp_runtime.machine import cpu_features
from offramp_runtime.native import code, compiler, points
from offramp_runtime.native.blocks import Vectors, best_cuts, best_map_cuts
from offramp_runtime.native.code import write_code
from offramp_runtime.native.layers import Concat, Conv, Mean, Network, Shape
from offramp_runtime.native.placing import join, place
from offramp_runtime.native.planes import Plane
from offramp_runtime.native.stages import NativeStages
from offramp_runtime.native.steps import in_order
from offramp_runtime.native.words import pack, pack_bytes

FLOATS = Vectors(8, 15)
PAIRS = Vectors(16, 28, packed=2)
BYTES = Vectors(16, 20)
NEEDS_BF16 = pytest.mark.skipif("avx512_bf16" not in cpu_features(), reason="the CPU has no bfloat16")
CPUS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
ON_LINUX = pytest.mark.skipif(len(CPUS) < 2, reason="wants to know where threads run, and two CPUs")
IMAGES = st.tuples(st.integers(1, 5), st.integers(1, 21), st.integers(1, 21))
WINDOWS = st.one_of(
    st.builds(
        Window, st.integers(1, 37), st.sampled_from([1, 3, 5, 7]), st.integers(1, 2), st.booleans(), st.booleans()
    ),
    st.just(Window(0, 3, 2)),
)
STAGES = st.lists(st.lists(WINDOWS, min_size=1, max_size=3), min_size=1, max_size=3)
DENSE = ([Window(6, 3, 1, joined=True), Window(4, 3, 1, joined=True)], [Window(8, 1, 1, joined=True), Window(12, 3, 2)])
POOLED = ([Window(20, 7, 2), Window(0, 3, 2)], [Window(33, 3, 2), Window(40, 3, 2)])


def images_of(network: Network, count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, *network.shapes["images"])).astype(np.float32)


# Every example is compiled, which takes half a second.
@settings(max_examples=8)
@example((3, 32, 32), DENSE, (16, 28), 1)
@example((3, 45, 31), POOLED, (16, 28), 2)
@example((1, 8, 8), DENSE, (4, 15), 3)
@given(IMAGES, STAGES, st.sampled_from([(4, 15), (8, 15), (16, 28)]), st.integers(1, 3))
def test_layers_of_any_size_in_vectors_of_any_size_are_computed_as_torch_does(
    tmp_path_factory: pytest.TempPathFactory,
    image: Shape,
    windows: list[list[Window]],
    cpu: tuple[int, int],
    threads: int,
) -> None:
    network = network_of(image, windows)
    stages = stages_of(network, Vectors(*cpu), tmp_path_factory.mktemp("c") / "made", threads)
    for count in (1, 2, 5):
        given_images = images_of(network, count)
        wanted = run_in_torch(network, given_images)
        limit = 1e-4 * np.abs(wanted).max()
        assert np.abs(run_all(stages, given_images) - wanted).max() <= limit
        run_all(stages, images_of(network, 2 * count)[:count])  # nothing is right that is left in memories
        rows, state = np.arange(count)[::-1], stages.start(given_images)
        for k in range(network.num_exits):
            assert np.abs(stages.direct(k, given_images) - wanted[k]).max() <= limit
            state, logits = stages.step(k, stages.take(state, rows))
            rows = np.arange(count)[::-1]
            assert np.abs(logits - wanted[k][:: -1 if k % 2 == 0 else 1]).max() <= limit


@settings(max_examples=8)
@example((1, 7, 7), [Window(1, 3, 1)], 16, 1)
@example((5, 14, 14), [Window(9, 3, 1), Window(3, 3, 1, relu=False)], 16, 3)
@example((3, 33, 45), [Window(4, 3, 1, joined=True), Window(30, 3, 1)], 8, 2)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 30), st.integers(7, 40)),
    st.lists(st.builds(Window, st.integers(1, 37), st.just(3), st.just(1), st.booleans(), st.booleans()), min_size=1),
    st.sampled_from([4, 8, 16]),
    st.integers(1, 3),
)
def test_convolutions_by_way_of_points_are_computed_as_torch_does(
    tmp_path_factory: pytest.TempPathFactory, image: Shape, windows: list[Window], lanes: int, threads: int
) -> None:
    network = network_of(image, [windows[:3]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(points, "_WORTH", float("inf"))  # where it does not pay as well
        stages = stages_of(network, Vectors(lanes, 15), tmp_path_factory.mktemp("c") / "made", threads)
        ways = [type(step.does) for step in in_order(network, Vectors(lanes, 15))]
    assert ways.count(points.ToPoints) == ways.count(points.FromPoints) == len(windows[:3])
    for count in (1, 4):
        for seed in (0, 1):  # the second in memories that hold what is left of the first
            given_images = images_of(network, count + 7 * seed)[:count]
            wanted = run_in_torch(network, given_images)
            assert np.abs(run_all(stages, given_images) - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("image", [(5, 8, 8), (3, 4, 4), (2, 10, 14)])
def test_large_weights_and_far_maps_are_computed_as_torch_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: Shape
) -> None:
    monkeypatch.setattr(code, "_CACHED", 0)
    monkeypatch.setattr(code, "_NEAR", 0)
    network = network_of(image, [[Window(20, 3, 1), Window(33, 3, 2)], [Window(40, 3, 2)]])
    given_images = images_of(network, 3)
    wanted = run_in_torch(network, given_images)
    found = run_all(stages_of(network, Vectors(16, 28), tmp_path / "made", threads=2), given_images)
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_a_map_is_one_part_where_weights_are_to_be_read_once_and_registers_suffice() -> None:
    parts = [best_map_cuts(side, side, 3, Vectors(16, 28), at_once=True)[0].parts for side in (1, 2, 4, 5, 6, 7)]
    assert parts[:4] == [1, 1, 1, 1]
    assert min(parts[4:]) > 1
    assert best_map_cuts(4, 4, 3, Vectors(16, 28), at_once=False)[0].parts == 2


def test_points_are_taken_where_they_save_much() -> None:
    def made_of(image: Shape, vectors: Vectors, window: Window) -> set[type]:
        network = network_of(image, [[window]])
        return {type(step.does) for step in in_order(network, vectors)}

    wide = (64, 28, 28)
    assert points.ToPoints in made_of(wide, Vectors(16, 28), Window(32, 3, 1))
    assert points.ToPoints not in made_of(wide, Vectors(16, 28), Window(32, 3, 2))
    assert points.ToPoints not in made_of(wide, Vectors(16, 28), Window(32, 5, 1))
    assert points.ToPoints not in made_of(wide, PAIRS, Window(32, 3, 1))
    assert points.ToPoints not in made_of((3, 28, 28), Vectors(16, 28), Window(2, 3, 1))  # few products to save
    assert points.ToPoints not in made_of((64, 28, 6), Vectors(16, 28), Window(32, 3, 1))  # no room behind rows


@NEEDS_BF16
@pytest.mark.parametrize(("image", "windows"), [((4, 32, 32), DENSE), ((3, 45, 31), POOLED), ((2, 9, 9), DENSE)])
def test_pairs_of_bfloat16_are_computed_nearly_so(
    tmp_path: Path, image: Shape, windows: Sequence[Sequence[Window]]
) -> None:
    network = network_of(image, windows)
    given_images = images_of(network, 3)
    wanted = run_in_torch(network, given_images)
    stages = stages_of(network, PAIRS, tmp_path / "made", threads=2)
    found = run_all(stages, given_images)
    for k, logits in enumerate(found):
        assert np.array_equal(stages.direct(k, given_images), logits)
    assert 1e-6 < np.abs(found - wanted).max() / np.abs(wanted).max() < 3e-2


@pytest.mark.skipif("avx512_vnni" not in cpu_features(), reason="the CPU adds no products of bytes")
@pytest.mark.parametrize(
    ("image", "windows"),
    [
        (
            (3, 32, 32),
            ([Window(8, 3, 1), Window(4, 3, 1, joined=True), Window(6, 1, 1, joined=True)], [Window(13, 3, 2)]),
        ),
        ((3, 45, 31), ([Window(20, 7, 2), Window(0, 3, 2), Window(5, 3, 1)], [Window(33, 3, 2), Window(3, 1, 1)])),
        ((1, 9, 9), ([Window(1, 3, 1), Window(0, 3, 2), Window(0, 3, 2)], [Window(37, 5, 1)])),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_bytes_are_computed_to_the_last_one(
    tmp_path: Path, image: Shape, windows: Sequence[Sequence[Window]], threads: int
) -> None:
    network = in_bytes(network_of(image, windows))
    stages = stages_of(network, BYTES, tmp_path / "made", threads)
    for seed in (0, 1):  # the second in memories that hold what is left of the first
        given_images = np.random.default_rng(seed).integers(-8, 9, (3, *image)).astype(np.float32)
        wanted = run_in_torch(network, given_images)
        assert np.abs(run_all(stages, given_images) - wanted).max() <= 1e-6 * np.abs(wanted).max()
        for k in range(network.num_exits):
            found = stages.direct(k, given_images[::-1])
            assert np.abs(found - wanted[k][::-1]).max() <= 1e-6 * np.abs(wanted).max()


@pytest.mark.skipif("avx512_vnni" not in cpu_features(), reason="the CPU adds no products of bytes")
@pytest.mark.parametrize("value", [np.inf, 3e38, 1e10, np.nan])
def test_what_is_too_large_for_a_byte_becomes_the_largest(tmp_path: Path, value: float) -> None:
    network = in_bytes(network_of((1, 8, 8), [[Window(16, 1, 1)]]))
    stem = network.layers[0]
    assert isinstance(stem, Conv)
    network = replace(network, layers=(replace(stem, weight=np.ones_like(stem.weight)), *network.layers[1:]))
    stages = stages_of(network, BYTES, tmp_path / "made")
    found, largest = (stages.direct(0, np.full((1, 1, 8, 8), one, np.float32)) for one in (value, 1000))
    assert np.array_equal(found, largest)


def test_sums_that_may_not_fit_are_refused(tmp_path: Path) -> None:
    network = in_bytes(network_of((1, 8, 8), [[Window(4, 3, 1), Window(4, 3, 1)]]))
    conv = network.layers[1]
    assert isinstance(conv, Conv)
    assert conv.unit is not None
    large = replace(conv, bias=(conv.unit * network.units["0.0"] * 2.0**31).astype(np.float32))
    network = replace(network, layers=(network.layers[0], large, *network.layers[2:]))
    with pytest.raises(ConfigError, match=r"too few bits for the sums of 0\.1 in int8; take another runtime"):
        write_code(network, place(network, BYTES), BYTES)


def test_maps_may_come_before_older_ones(tmp_path: Path) -> None:
    network = network_of((3, 8, 8), [[Window(4, 3, 1)], [Window(6, 3, 1)]])
    swapped = Concat(("1.0", "0.0"), "both")
    layers = [layer for layer in network.layers if layer.sink not in {"1 mean", "logits1"}]
    weight = np.random.default_rng(1).normal(size=(5, 10, 1, 1)).astype(np.float32)
    head = (Mean("both", "1 mean"), Conv("1 mean", "logits1", weight, np.zeros(5, np.float32), 1, relu=False))
    network = Network(
        (*layers, swapped, *head),
        {**network.shapes, "both": (10, 8, 8), "1 mean": (10, 1, 1)},
        {**network.stages, "both": 1},
        (network.ways[0], frozenset({"0.0", "1.0", "both", "1 mean", "logits1"})),
    )
    stages, given_images = stages_of(network, FLOATS, tmp_path / "made"), images_of(network, 3)
    state, _ = stages.step(0, stages.start(given_images))
    _, logits = stages.step(1, stages.take(state, np.array([2, 0])))
    assert np.allclose(logits, run_in_torch(network, given_images)[1][[2, 0]], atol=1e-5)


def test_states_of_another_network_are_refused(tmp_path: Path) -> None:
    small, large = (network_of((3, 8, 8), [[Window(out, 3, 1)]] * 2) for out in (4, 64))
    made = [stages_of(network, FLOATS, tmp_path / name) for network, name in ((small, "small"), (large, "large"))]
    foreign, own = (stages.start(images_of(small, 2)) for stages in made)
    for ask in (
        lambda: made[1].step(0, foreign),
        lambda: made[1].take(foreign, np.array([0])),
        lambda: made[1].join([own, foreign]),
    ):
        with pytest.raises(ConfigError, match="a state of another network: give stages what they made themselves"):
            ask()


def test_a_stage_cancelled_midway_lets_all_its_threads_go(tmp_path: Path) -> None:
    network = network_of((3, 8, 8), [[Window(4, 3, 1)]])
    stages = stages_of(network, FLOATS, tmp_path / "made", threads=3)
    batches = [images_of(network, 2), images_of(network, 3)[:2]]  # in turn: nothing is right that is left of the other
    both = [stages.step(0, stages.start(one))[1] for one in batches]
    for turn in range(600):
        given_images, wanted = batches[turn % 2], both[turn % 2]
        cancelled = Cancellation()
        timer = threading.Timer(turn % 20 * 1e-4, cancelled.set)
        timer.start()
        done = stages.step_unless(cancelled, 0, stages.start(given_images))
        assert done is None or np.array_equal(done[1], wanted)
        timer.join()
    assert np.array_equal(stages.step(0, stages.start(given_images))[1], wanted)


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_that_fell_asleep_join_in_when_they_wake(tmp_path: Path, threads: int) -> None:
    network = network_of((8, 16, 16), [[Window(32, 3, 1), Window(32, 3, 1)]] * 3)
    stages, given_images = stages_of(network, FLOATS, tmp_path / "made", threads), images_of(network, 7)
    alone = stages_of(network, FLOATS, tmp_path / "made for one")
    for count in (1, 7, 0, 1, threads - 1, threads):
        for k in range(network.num_exits):
            time.sleep(0.01)  # they spin for less
            wanted = alone.direct(k, given_images[:count])
            assert np.array_equal(stages.direct(k, given_images[:count]), wanted)
            assert np.array_equal(stages.direct(k, given_images[:count]), wanted)


@ON_LINUX
def test_all_threads_have_a_share_of_one_image(tmp_path: Path) -> None:
    network = network_of((64, 56, 56), [[Window(64, 3, 1)] * 8])
    stages, workers = with_its_threads(lambda: stages_of(network, FLOATS, tmp_path / "made", threads=2))
    given_images = images_of(network, 1)
    for _ in range(5):
        time.sleep(0.02)
        began, theirs = time.thread_time(), [cpu_seconds(worker) for worker in workers]
        stages.direct(0, given_images)
        ours = time.thread_time() - began
        shares = [(cpu_seconds(worker) - before) / ours for worker, before in zip(workers, theirs, strict=True)]
        if min(shares) > 0.2:
            return
    pytest.fail(f"the second thread computed {shares} of what the first did")


@ON_LINUX
@pytest.mark.parametrize("threads", [2, 1 + len(CPUS)])
def test_threads_are_kept_off_the_cpu_of_their_caller_if_there_are_enough(tmp_path: Path, threads: int) -> None:
    network = network_of((3, 8, 8), [[Window(4, 3, 1)]])
    stages, workers = with_its_threads(lambda: stages_of(network, FLOATS, tmp_path / "made", threads))
    assert len(workers) == threads - 1
    given_images = images_of(network, 1)
    for cpu in sorted(CPUS):
        with on_cpus({cpu}):
            stages.direct(0, given_images)
            assert os.sched_getaffinity(0) == {cpu}
        others = CPUS - {cpu}
        wanted = others if len(others) >= threads - 1 else CPUS
        assert [os.sched_getaffinity(worker) for worker in workers] == [wanted] * (threads - 1)


def with_its_threads(make: Callable[[], NativeStages]) -> tuple[NativeStages, list[int]]:
    """What is made, and the threads it has started."""
    before = set(Path("/proc/self/task").iterdir())
    made = make()
    return made, [int(thread.name) for thread in set(Path("/proc/self/task").iterdir()) - before]


def cpu_seconds(thread: int) -> float:
    """What it has computed."""
    return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[0]) / 1e9


@contextmanager
def on_cpus(cpus: set[int]) -> Iterator[None]:
    """Confined to them."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def test_a_network_of_very_many_exits_is_no_different(tmp_path: Path) -> None:
    exits = 270  # with which lists of steps are longer than 32767 numbers
    network = network_of((1, 1, 1), [[Window(1, 1, 1, relu=False)]] * exits)
    given_images = images_of(network, 1)
    stages = stages_of(network, FLOATS, tmp_path / "made")
    assert np.allclose(stages.direct(exits - 1, given_images), run_in_torch(network, given_images)[-1], atol=1e-4)


def test_a_single_class_is_written_where_it_belongs(tmp_path: Path) -> None:
    network = network_of((3, 8, 8), [[Window(4, 3, 1)]], classes=1)
    given_images = images_of(network, 7)
    found = stages_of(network, FLOATS, tmp_path / "made").direct(0, given_images)
    assert found.shape == (7, 1)
    assert np.allclose(found, run_in_torch(network, given_images)[0], atol=1e-5)


@pytest.mark.parametrize("vectors", [FLOATS, pytest.param(PAIRS, marks=NEEDS_BF16)])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf])
def test_what_is_no_number_stays_none_in_pools(tmp_path: Path, vectors: Vectors, value: float) -> None:
    network = network_of((2, 13, 13), [[Window(4, 3, 1), Window(0, 3, 2)]])
    given_images = images_of(network, 2)
    given_images[1, :, 6, 6] = value
    found = stages_of(network, vectors, tmp_path / "made").direct(0, given_images)
    assert np.isfinite(found).all(axis=1).tolist() == [True, False]


def test_what_is_no_number_is_not_made_one(tmp_path: Path) -> None:
    network = network_of((1, 6, 6), [[Window(3, 3, 1)]])
    stages = stages_of(network, FLOATS, tmp_path / "made")
    given_images = images_of(network, 2)
    given_images[1, 0, 2, 2] = np.nan
    _, logits = stages.step(0, stages.start(given_images))
    assert np.isnan(logits).all(axis=1).tolist() == [False, True]
    given_images = images_of(network, 2)  # and nothing of it is left in the memory it ran in
    assert np.allclose(stages.direct(0, given_images), run_in_torch(network, given_images)[0], atol=1e-5)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 3), st.sampled_from([4, 8, 16]))
def test_around_every_pixel_of_a_plane_lie_its_neighbours_and_zeros(
    height: int, width: int, border: int, lanes: int
) -> None:
    plane = Plane(height, width, border, lanes)
    memory = np.zeros(plane.size(2), int)
    for channel in range(2):
        start = plane.lead + channel * plane.pitch
        there = np.flatnonzero(plane.pixels())
        assert there.tolist() == [plane.at(y, x) for y in range(height) for x in range(width)]
        memory[start + there] = channel * height * width + np.arange(1, height * width + 1)
    assert plane.lead % lanes == plane.pitch % lanes == 0
    for channel, y, x in itertools.product(range(2), (0, height - 1), (0, width - 1)):
        for up, left in itertools.product(range(-border, border + 1), repeat=2):
            inside = 0 <= y + up < height and 0 <= x + left < width
            value = memory[plane.lead + channel * plane.pitch + plane.at(y + up, x + left)]
            assert value == (channel * height * width + (y + up) * width + x + left + 1 if inside else 0)
    assert plane.lead + 2 * plane.pitch - plane.pitch + plane.vectors * lanes <= len(memory)


@given(st.integers(1, 200), st.integers(1, 80), st.sampled_from([FLOATS, PAIRS, Vectors(16, 28)]))
def test_what_a_kernel_adds_up_fits_the_registers(channels: int, columns: int, vectors: Vectors) -> None:
    channels *= vectors.packed
    for rows, across in (
        best_cuts(channels, columns, vectors, vectors.packed),
        best_map_cuts(channels, columns, 3, vectors, at_once=True),
        best_map_cuts(channels, columns, 3, vectors, at_once=False),
    ):
        assert rows.size * across.size + across.size + 1 <= vectors.registers
    rows, across = best_cuts(channels, columns, vectors, vectors.packed)
    assert rows.count == rows.whole * rows.size + rows.rest == channels
    assert rows.size % vectors.packed == 0
    assert across.parts * across.size >= columns


@given(IMAGES, STAGES)
def test_maps_that_are_needed_at_once_lie_apart(image: Shape, windows: list[list[Window]]) -> None:
    network = network_of(image, windows)
    layout = place(network, FLOATS)
    roots = {name: home.root for name, home in join(network, dict.fromkeys(network.shapes, 1)).items()}
    used: dict[str, list[int]] = {}
    for number, step in enumerate(layout.steps):
        for name in (step.source, step.sink):
            used.setdefault(name, []).append(number)
    for one, other in itertools.combinations(used, 2):
        a, b = layout.places[one], layout.places[other]
        if a.area != b.area or roots.get(one, one) == roots.get(other, other) or a.area == "logits":
            continue
        at_once = min(used[one]) <= max(used[other]) and min(used[other]) <= max(used[one])
        apart = a.start + a.planes * a.plane.pitch <= b.start or b.start + b.planes * b.plane.pitch <= a.start
        assert apart or (a.area == "scratch" and not at_once)
    for place_of in layout.places.values():
        size = {"memory": layout.memory, "scratch": layout.scratch, "logits": 1}[place_of.area]
        assert place_of.area == "logits" or place_of.start + place_of.planes * place_of.plane.pitch <= size


def test_a_dense_network_is_joined_without_moving_anything() -> None:
    network = network_of((3, 8, 8), DENSE)
    layout = place(network, FLOATS)
    assert not any(isinstance(step.does, Concat) for step in layout.steps)
    starts = [layout.places[name].start for name in ("images", "0.0", "0.1", "1.0")]
    pitch = layout.places["images"].plane.pitch
    assert np.diff(starts).tolist() == [3 * pitch, 6 * pitch, 4 * pitch]


def test_a_map_that_belongs_in_two_places_is_refused() -> None:
    network = network_of((3, 8, 8), [[Window(4, 1, 1), Window(4, 1, 1)]])
    twice = (*network.layers, Concat(("0.0", "0.1"), "a"), Concat(("0.1", "0.0"), "b"))
    shapes = {**network.shapes, "a": (8, 8, 8), "b": (8, 8, 8)}
    with pytest.raises(
        ConfigError, match=r"cannot lay out map 0\.[01], which belongs in two places; take another runtime"
    ):
        join(Network(twice, shapes, network.stages, network.ways), dict.fromkeys(shapes, 1))


def test_channels_that_would_share_a_word_with_those_of_another_map_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"packs 2 channels, and 1.0 comes after 13; take fp32"):
        place(network_of((3, 8, 8), DENSE), PAIRS)


def test_weights_are_packed_as_the_nearest_pairs() -> None:
    weight = np.array([1.0, -2.5, 1 + 2**-8, 1 + 3 * 2**-8, 7.0], np.float32).reshape(1, 5, 1, 1)
    words = pack(weight, 2).view(np.uint32).ravel()
    halves = np.stack([words & 0xFFFF, words >> 16], 1).ravel().astype(np.uint32) << 16
    assert halves.view(np.float32).tolist() == [1.0, -2.5, 1.0, 1 + 2**-6, 7.0, 0.0]
    assert pack(weight, 1) is weight


def test_bytes_are_packed_with_the_first_channel_lowest() -> None:
    weight = np.array([1, -2, 3, 127, -128], np.int8).reshape(1, 5, 1, 1)
    words = pack_bytes(weight)
    assert words.shape == (1, 2, 1, 1)
    assert words.ravel().view(np.int8).tolist() == [1, -2, 3, 127, -128, 0, 0, 0]


@pytest.mark.parametrize(
    ("machine", "features", "lanes"),
    [
        ("x86_64", {"avx2", "fma"}, 8),
        ("x86_64", {"avx2", "fma", "avx512f"}, 16),
        ("x86_64", {"sse2"}, 4),
        ("aarch64", {"asimd"}, 4),
    ],
)
def test_vectors_are_those_of_the_cpu(
    machine: str, features: set[str], lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(compiler, "cpu_features", lambda: frozenset(features))
    assert compiler.vectors("fp32").lanes == lanes
