import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import offramp_runtime
from bundles import (
    as_kind,
    assert_close,
    check_joining,
    check_many_threads,
    check_stepping_one_state_at_once,
    expected,
    network_input,
    run_all,
)
from offramp.classifier.quantised import quantise_with
from offramp.engine.graphs import write_graphs
from offramp_runtime import graph
from offramp_runtime.cancellation import Cancellation
from offramp_runtime.errors import ArtifactError, ConfigError, MissingExtraError
from offramp_runtime.machine import cpu_features
from offramp_runtime.native import compiler, stages
from offramp_runtime.native.layers import Concat, Conv, Layer, MaxPool, Mean, check_units, read_network
from offramp_runtime.native.stages import NativeStages
from offramp_runtime.onnx import open_stages as onnx_stages
from offramp_runtime.precision import Precision
from tiny import images, make_classifier, make_net


def open_stages(bundle: Path, threads: int = 1) -> NativeStages:
    return stages.open_stages(bundle, 3, threads=threads, precision="fp32")


@pytest.fixture(scope="module", params=[1, 2], ids=["one thread", "two threads"])
def opened(request: pytest.FixtureRequest, bundle: Path) -> NativeStages:
    return open_stages(bundle, request.param)


@pytest.mark.parametrize("count", [0, 1, 7, 64])
def test_stages_answer_as_the_network_does(opened: NativeStages, count: int) -> None:
    given = network_input(count)
    for _ in range(2):
        found = run_all(opened, given)
        assert found.shape == (3, count, 4)
        if count:
            assert_close(found, expected(given))


@pytest.mark.parametrize("count", [1, 7, 64])
@pytest.mark.parametrize("k", range(3))
def test_going_straight_to_an_exit_gives_its_answer(opened: NativeStages, k: int, count: int) -> None:
    given = network_input(count)
    assert_close(opened.direct(k, given), expected(given)[k])


@pytest.mark.parametrize("k", [-1, 3])
def test_going_to_an_exit_that_is_not_there_is_refused(opened: NativeStages, k: int) -> None:
    with pytest.raises(ConfigError, match=f"exit {k}: this network has exits 0 … 2"):
        opened.direct(k, network_input(1))


def test_images_of_another_size_are_refused(opened: NativeStages) -> None:
    with pytest.raises(
        ConfigError, match=r"images of 1 x 8 x 16: .* made for 1 x 16 x 16; resize them, or take 'eager'"
    ):
        opened.start(np.zeros((1, 1, 8, 16), np.float32))


def test_a_stage_out_of_order_is_refused(opened: NativeStages) -> None:
    state, _ = opened.step(0, opened.start(network_input(1)))
    for k in (0, 2):
        with pytest.raises(ConfigError, match=f"stage {k} of a state behind 1 stages: run stage 1 next"):
            opened.step(k, state)


def test_stepping_a_state_twice_gives_the_same_twice(opened: NativeStages) -> None:
    given = network_input(5)
    state, _ = opened.step(0, opened.start(given))
    _, first = opened.step(1, state)
    run_all(opened, network_input(5, seed=1))
    after, second = opened.step(1, state)
    assert np.array_equal(first, second)
    assert_close(opened.step(2, after)[1], expected(given)[2])


def test_images_may_change_once_a_state_has_been_made_of_them(opened: NativeStages) -> None:
    given = network_input(3)
    wanted = expected(given)[0]
    state = opened.start(given)
    given[:] = 0
    assert_close(opened.step(0, state)[1], wanted)


def test_images_need_not_lie_in_one_piece_or_be_floats(opened: NativeStages) -> None:
    given = network_input(6)
    assert_close(opened.direct(2, given[::2].astype(np.float64)), expected(given[::2].copy())[2])


@pytest.mark.parametrize("rows", [[2], [6, 0, 3], [1, 1, 1, 5], list(range(7))])
def test_rows_taken_go_on_as_those_images_would(opened: NativeStages, rows: list[int]) -> None:
    given = network_input(7)
    before = opened.take(opened.start(given), np.array(rows))
    assert_close(opened.step(0, before)[1], expected(given)[0][rows])
    state, _ = opened.step(0, opened.start(given))
    state, logits = opened.step(1, opened.take(state, np.array(rows)))
    assert_close(logits, expected(given)[1][rows])
    _, logits = opened.step(2, opened.take(state, np.arange(len(rows))[::-1]))
    assert_close(logits, expected(given)[2][rows[::-1]])


def test_joined_states_go_on_as_one_batch_would(opened: NativeStages) -> None:
    check_joining(opened)


def test_many_threads_may_use_one_instance_at_once(opened: NativeStages) -> None:
    check_many_threads(opened)


def test_threads_may_step_the_same_state(opened: NativeStages) -> None:
    check_stepping_one_state_at_once(opened)


@pytest.mark.parametrize("rows", [[-1], [0, 7]])
def test_rows_that_are_not_there_are_refused(opened: NativeStages, rows: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"rows -?\d … \d+ of a state of 7|rows -1 … -1 of a state of 7"):
        opened.take(opened.start(network_input(7)), np.array(rows))


def test_only_states_behind_the_same_stage_are_joined(opened: NativeStages) -> None:
    before = opened.start(network_input(1))
    with pytest.raises(ConfigError, match="states behind 0, 1 stages: join states that are behind the same stage"):
        opened.join([before, opened.step(0, before)[0]])
    with pytest.raises(ConfigError, match="states behind no stages"):
        opened.join([])


@pytest.mark.parametrize("count", [1, 64])
def test_a_cancelled_stage_gives_nothing_and_leaves_its_state_as_it_was(opened: NativeStages, count: int) -> None:
    given = network_input(count)
    state, _ = opened.step(0, opened.start(given))
    cancelled = Cancellation()
    done = opened.step_unless(cancelled, 1, state)
    assert done is not None
    cancelled.set()  # before the run reaches its first layer, whatever the machine is doing
    assert opened.step_unless(cancelled, 1, state) is None
    state, logits = opened.step(1, state)
    assert np.array_equal(logits, done[1])
    assert_close(opened.step(2, state)[1], expected(given)[2])


def test_memory_is_used_again_but_no_more_of_it_kept_than_said(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_stages(bundle)
    run_all(opened, network_input(8))
    assert len(opened._rooms.free) == 8
    first = set(opened._rooms.free)
    run_all(opened, network_input(5))
    assert set(opened._rooms.free) == first
    monkeypatch.setattr(stages, "_KEPT_BYTES", 3 * 4 * opened._rooms.words)
    opened = open_stages(bundle)
    run_all(opened, network_input(8))
    assert len(opened._rooms.free) == 3


def test_rows_are_taken_and_states_joined_without_moving_them_unless_they_come_again(opened: NativeStages) -> None:
    given = network_input(4)
    state, _ = opened.step(0, opened.start(given))
    taken = opened.take(state, np.array([3, 1]))
    assert set(taken.memories.each) < set(state.memories.each)
    joined = opened.join([state, taken, state])
    assert len(set(joined.memories.each)) == 10
    assert_close(opened.step(1, joined)[1], expected(given)[1][[0, 1, 2, 3, 3, 1, 0, 1, 2, 3]])


def check_free(opened: NativeStages, living: Sequence[stages.State]) -> None:
    """Rooms are free, once each, if no living state uses them."""
    used = {address for state in living for address in state.memories.each.tolist()}
    assert sorted(opened._rooms.free) == sorted(opened._rooms._arrays.keys() - used)


@settings(max_examples=30)
@given(data=st.data())
def test_whatever_is_taken_joined_and_dropped_what_nobody_uses_is_free_and_nothing_else(
    opened: NativeStages, data: st.DataObject
) -> None:
    living = [opened.start(network_input(2))]
    for _ in range(data.draw(st.integers(1, 8))):
        one = data.draw(st.sampled_from(range(len(living))))
        what = data.draw(st.sampled_from(["start", "take", "join", "drop"]))
        if what == "start":
            living.append(opened.start(network_input(data.draw(st.integers(0, 3)))))
        elif what == "take" and living[one].samples:
            rows = data.draw(st.lists(st.integers(0, living[one].samples - 1), max_size=4))
            living.append(opened.take(living[one], np.array(rows)))
            assert living[-1].samples == len(rows)
        elif what == "join":
            living.append(opened.join([living[one], living[-1]]))
        elif len(living) > 1:
            del living[one]
        check_free(opened, living)


def test_an_interrupt_before_rooms_are_counted_frees_nobody_elses(
    opened: NativeStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = network_input(2)
    state, _ = opened.step(0, opened.start(given))

    def interrupt(addresses: int, count: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(opened._library, "hold", interrupt)
        with pytest.raises(KeyboardInterrupt):
            opened.take(state, np.array([0, 1]))
    check_free(opened, [state])
    assert_close(opened.step(1, state)[1], expected(given)[1])


def test_a_batch_too_large_for_memory_gives_back_what_it_had_got(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_stages(bundle)
    zeros, made = stages._zeros, 0

    def two(words: int) -> stages.Floats:
        nonlocal made
        made += 1
        if made > 2:
            raise MemoryError
        return zeros(words)

    with monkeypatch.context() as patch:
        patch.setattr(stages, "_zeros", two)
        with pytest.raises(MemoryError):
            opened.start(network_input(3))
    assert len(opened._rooms.free) == 2
    assert_close(run_all(opened, network_input(2)), expected(network_input(2)))


def test_a_process_that_forks_goes_on_in_both(bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "given.npy", network_input(1))
    code = f"""
import os
from pathlib import Path
import numpy as np
from offramp_runtime.native import open_stages
stages = open_stages(Path({str(bundle)!r}), 3, threads=2, precision="fp32")
given = np.load({str(tmp_path / "given.npy")!r})
before = stages.direct(2, given)
child = os.fork()
same = np.array_equal(stages.direct(2, given), before)
if child == 0:
    os._exit(0 if same else 1)
print(same, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "0"]


def test_a_second_open_compiles_nothing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_stages(bundle)
    monkeypatch.setattr(stages, "compile_library", None)  # must not be called
    given = network_input(2)
    assert_close(run_all(open_stages(bundle), given), expected(given))


def test_another_cpu_or_other_code_compiles_anew(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path))
    made: list[Path] = []
    monkeypatch.setattr(stages, "NativeStages", lambda folder, threads: None)
    monkeypatch.setattr(stages, "_make", lambda sources, vectors, folder: made.append(folder))
    for change in ("cpu_name", "_digest_of_code"):
        open_stages(bundle)
        open_stages(bundle)
        monkeypatch.setattr(stages, change, lambda: "another")
    open_stages(bundle)
    assert len(made) == 3


@pytest.mark.parametrize("broken", ["stages.so", "facts.json", "weights.bin"])
def test_what_is_damaged_in_the_cache_is_never_run_and_made_anew(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: str
) -> None:
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path / "whole"))
    wanted = run_all(open_stages(bundle), network_input(2))
    copied = shutil.copytree(tmp_path / "whole", tmp_path / "broken")  # a process opens a library of a name only once
    monkeypatch.setenv("OFFRAMP_CACHE", str(copied))
    (path,) = copied.rglob(broken)
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 64]) + whole[middle + 1 :])
    assert np.array_equal(run_all(open_stages(bundle), network_input(2)), wanted)


def test_a_library_that_cannot_be_opened_names_its_folder(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path))
    monkeypatch.setattr(stages, "compile_library", lambda _text, library: library.write_bytes(b"of another machine"))
    with pytest.raises(ArtifactError, match=rf"{tmp_path}.*cannot be opened .*remove this folder, and it is made anew"):
        open_stages(bundle)


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_a_bundle_may_be_compiled_instead(bundle: Path, tmp_path: Path, kind: str) -> None:
    written = as_kind(bundle, tmp_path, kind)
    model = offramp_runtime.load(written, threads=1, runtime="native")
    assert isinstance(model.stages, NativeStages)
    pixels = images(5)
    assert model.predict(pixels).label.tolist() == make_classifier().predict(pixels).label.tolist()
    assert model.predict(pixels, budget="1000ms").label.shape == (5,)
    assert model.predict(pixels, deadline_ms=10_000).exit_index.tolist() == [2] * 5


def test_a_bundle_is_not_run_by_what_it_was_not_written_for(bundle: Path) -> None:
    with pytest.raises(ConfigError, match="runtime 'openvino' for a bundle written for onnx: take that, or 'native'"):
        offramp_runtime.load(bundle, runtime="openvino")


def test_without_onnx_the_extra_is_named_unless_all_has_been_compiled_before(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    open_stages(bundle)
    monkeypatch.setitem(sys.modules, "onnx", None)
    open_stages(bundle)
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"reads its graphs with onnx.* pip install 'offramp-runtime\[onnx\]'"):
        open_stages(bundle)


def test_without_a_compiler_it_says_what_to_install_unless_all_has_been_compiled_before(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    open_stages(bundle)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    open_stages(bundle)
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="needs a C compiler, and there is neither cc, gcc nor clang; install gcc or"):
        open_stages(bundle)
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(ConfigError, match="and CC names no-such-compiler, which is not there"):
        open_stages(bundle)


def test_a_compiler_that_fails_is_named_with_its_reason(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho 'stages.c:1: error: no vectors today' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(ConfigError, match=r"broken-cc cannot compile .*no vectors today.*; name another in CC"):
        open_stages(bundle)
    broken.write_text("#!/bin/sh\necho 'not now' >&2\necho 'later' >&2\nexit 1\n")
    with pytest.raises(
        ConfigError, match=r"^.*broken-cc cannot compile what runtime 'native' made \(not now\); name another in CC$"
    ):
        open_stages(bundle)


def test_a_compiler_may_be_named_with_arguments(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "cc -pipe")
    given = network_input(1)
    assert_close(open_stages(bundle).direct(0, given), expected(given)[0])


def test_a_full_disk_says_what_to_do(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(_text: str, _library: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path))
    monkeypatch.setattr(stages, "compile_library", full)
    with pytest.raises(ArtifactError, match=r"cannot be written .No space left on device.; make room, or name another"):
        open_stages(bundle)


@pytest.mark.parametrize(("precision", "needed"), [("bf16", "avx512_bf16"), ("int8", "avx512_vnni")])
def test_low_precision_is_refused_on_a_cpu_without_it(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, needed: str
) -> None:
    monkeypatch.setattr(compiler, "cpu_features", lambda: frozenset({"avx512f"}))
    with pytest.raises(ConfigError, match=f"needs a CPU with {needed}, which this one lacks; take another"):
        stages.open_stages(bundle, 3, threads=1, precision=precision)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs of the network in 8 bits."""
    folder = tmp_path_factory.mktemp("int8")
    quantise_with(make_classifier(), [network_input(32, seed=9)], folder / "int8.onnx")
    (folder / "graphs").mkdir()
    write_graphs(make_net(), folder / "graphs", "int8", folder / "int8.onnx")
    return folder / "graphs"


@pytest.mark.skipif("avx512_vnni" not in cpu_features(), reason="the CPU adds no products of bytes")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [1, 7])
def test_8_bits_give_what_they_give_in_onnx_runtime(quantised: Path, count: int, threads: int) -> None:
    given = network_input(count)
    wanted = run_all(onnx_stages(quantised, 3, threads=1), given)
    opened = stages.open_stages(quantised, 3, threads=threads, precision="int8")
    found = run_all(opened, given)
    # Where a sum lies between two integers, the order in which it is scaled may decide.
    assert np.abs(found - wanted).max() <= 5e-3 * np.abs(wanted).max()
    assert 1e-3 < np.abs(found - expected(given)).max() / np.abs(wanted).max() < 0.3
    for k in range(3):
        assert np.array_equal(opened.direct(k, given), found[k])
    state, _ = opened.step(0, opened.start(given))
    assert np.array_equal(opened.step(1, opened.take(state, np.arange(count)[::-1]))[1], found[1][::-1])


def shift_zero(whole: onnx.ModelProto) -> None:
    for constant in whole.graph.initializer:
        if constant.data_type == onnx.TensorProto.UINT8:
            constant.CopyFrom(onnx.numpy_helper.from_array(np.array(3, np.uint8), constant.name))


def change_a_scale(whole: onnx.ModelProto) -> None:
    concat = next(node for node in whole.graph.node if node.op_type == "Concat")
    makers = {name: node for node in whole.graph.node for name in node.output}
    scale = makers[concat.input[0]].input[1]
    for constant in whole.graph.initializer:
        if constant.name == scale:
            constant.CopyFrom(onnx.numpy_helper.from_array(np.array(0.5, np.float32), scale))


def read_unrounded(whole: onnx.ModelProto) -> None:
    rounded = next(node.input[0] for node in whole.graph.node if node.op_type == "QuantizeLinear")
    mean = next(node for node in whole.graph.node if node.op_type == "ReduceMean")
    mean.input[0] = rounded


def shift_weights(whole: onnx.ModelProto) -> None:
    for constant in whole.graph.initializer:
        if constant.data_type == onnx.TensorProto.INT8 and len(constant.dims) == 1:
            zeros = np.full(constant.dims, -100, np.int8)
            constant.CopyFrom(onnx.numpy_helper.from_array(zeros, constant.name))


def round_twice(whole: onnx.ModelProto) -> None:
    first = next(node for node in whole.graph.node if node.op_type == "QuantizeLinear")
    whole.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    whole.graph.node.append(
        onnx.helper.make_node("QuantizeLinear", [first.input[0], "half", first.input[2]], ["again"])
    )


def round_what_is_rounded(whole: onnx.ModelProto) -> None:
    nodes = whole.graph.node
    first = next(node for node in nodes if node.op_type == "QuantizeLinear")
    place, back = next((place, node) for place, node in enumerate(nodes) if first.output[0] in node.input)
    for reader in nodes:
        reader.input[:] = ["rounded again" if name == back.output[0] else name for name in reader.input]
    again = onnx.helper.make_node("QuantizeLinear", [back.output[0], *first.input[1:]], ["once more"])
    nodes.insert(
        place + 1, onnx.helper.make_node("DequantizeLinear", ["once more", *back.input[1:]], ["rounded again"])
    )
    nodes.insert(place + 1, again)


def read_in_another_unit(whole: onnx.ModelProto) -> None:
    made = {node.output[0] for node in whole.graph.node if node.op_type == "QuantizeLinear"}
    back = next(node for node in whole.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in made)
    whole.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    back.input[1] = "half"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shift_weights, r"cannot compute Conv \(weights no 8-bit multiples of a scale for each output channel\)"),
        (round_twice, r"cannot compute QuantizeLinear \(scales 0.5 and "),
        (round_what_is_rounded, r"cannot compute QuantizeLinear \(.*of rounded"),
        (read_in_another_unit, r"cannot compute DequantizeLinear"),
        (shift_zero, r"cannot compute QuantizeLinear \(scale .*, zero point 3\)"),
        (change_a_scale, r"cannot compute Concat \(units \["),
        (read_unrounded, r"cannot compute ReduceMean \(of unrounded"),
    ],
)
def test_8_bits_of_another_kind_are_refused_by_name(
    quantised: Path, change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    whole = graph.join_stages([graph.read(quantised / f"stage-{k}.onnx") for k in range(3)])
    change(whole)
    with pytest.raises(ConfigError, match=f"runtime 'native' {message}"):
        read_network(whole, 3)


@pytest.mark.parametrize(
    ("layer", "rounded"),
    [
        (MaxPool("a", "b", 3, 2), {"other"}),
        (MaxPool("a", "b", 3, 2), {"a"}),
        (Mean("a", "b"), {"other"}),
        (Mean("a", "b"), {"a", "b"}),
        (Concat(("a", "c"), "b"), {"a", "b"}),
        (Conv("a", "b", np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32), 1, relu=True), {"a", "b"}),
        (Conv("a", "logits0", np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32), 1, relu=False), {"logits0"}),
        (Conv("images", "b", np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32), 1, relu=True), {"images"}),
    ],
)
def test_layers_that_would_take_bytes_for_floats_are_refused(layer: Layer, rounded: set[str]) -> None:
    with pytest.raises(ConfigError, match=f"{layer.sink} with what is rounded to 8 bits here and what is not; take"):
        check_units([layer], dict.fromkeys(rounded, 0.5), 1)


def change_attribute(kind: str, name: str, value: object) -> Callable[[onnx.NodeProto], None]:
    def change(node: onnx.NodeProto) -> None:
        if node.op_type == kind:
            kept = [attribute for attribute in node.attribute if attribute.name != name]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])

    return change


def rename(kind: str, other: str) -> Callable[[onnx.NodeProto], None]:
    def change(node: onnx.NodeProto) -> None:
        node.op_type = other if node.op_type == kind else node.op_type

    return change


def drop_axes(node: onnx.NodeProto) -> None:
    if node.op_type == "ReduceMean":
        del node.input[1]


def drop_bias(node: onnx.NodeProto) -> None:
    if node.op_type == "Conv":
        del node.input[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_attribute("Conv", "group", 2), r"cannot compute Conv \(.*group 2.*\); take another runtime"),
        (change_attribute("Conv", "dilations", [2, 2]), r"cannot compute Conv \(.*dilations \[2, 2\]"),
        (change_attribute("Conv", "pads", [2, 2, 2, 2]), r"cannot compute Conv \(.*pads \[2, 2, 2, 2\]"),
        (change_attribute("Conv", "strides", [3, 3]), r"cannot compute Conv \(.*strides \[3, 3\]"),
        (change_attribute("Conv", "auto_pad", "SAME_LOWER"), r"cannot compute Conv \(auto_pad SAME_LOWER"),
        (change_attribute("Concat", "axis", 2), r"cannot compute Concat \(auto_pad NOTSET, axis 2"),
        (change_attribute("Gemm", "alpha", 2.0), r"cannot compute Gemm \(alpha 2.0"),
        (change_attribute("Gemm", "transB", 0), r"cannot compute Gemm \(.*transB 0"),
        (drop_axes, r"cannot compute ReduceMean \(.*axes \[\]"),
        (rename("ReduceMean", "ReduceMax"), r"cannot compute ReduceMax"),
        (drop_bias, r"cannot compute Conv \(.*constants 1 of 2"),
    ],
)
def test_a_graph_with_something_unknown_is_refused_by_name(
    bundle: Path, change: Callable[[onnx.NodeProto], None], message: str
) -> None:
    whole = graph.join_stages([graph.read(bundle / f"stage-{k}.onnx") for k in range(3)])
    for node in whole.graph.node:
        change(node)
    with pytest.raises(ConfigError, match=f"runtime 'native' {message}"):
        read_network(whole, 3)


def test_attributes_may_be_left_out_where_they_are_what_onnx_takes_them_for(bundle: Path) -> None:
    whole = graph.join_stages([graph.read(bundle / f"stage-{k}.onnx") for k in range(3)])
    usual = read_network(whole, 3)
    for node in whole.graph.node:
        kept = [one for one in node.attribute if one.name not in {"group", "dilations", "alpha", "beta", "auto_pad"}]
        del node.attribute[:]
        node.attribute.extend(kept)
    assert [type(layer) for layer in read_network(whole, 3).layers] == [type(layer) for layer in usual.layers]


def test_images_of_no_settled_size_are_refused(bundle: Path) -> None:
    whole = graph.join_stages([graph.read(bundle / f"stage-{k}.onnx") for k in range(3)])
    whole.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(ConfigError, match="needs to know the size of images; take another runtime"):
        read_network(whole, 3)
