from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles import assert_close, expected, network_input
from offramp_runtime import graph

onnx = pytest.importorskip("onnx")


def evaluate(model: Any, feeds: dict[str, Any]) -> dict[str, Any]:
    """Outputs by name, in NumPy."""
    from onnx.reference import ReferenceEvaluator

    names = [value.name for value in model.graph.output]
    wanted = {value.name: feeds[value.name] for value in model.graph.input}
    return dict(zip(names, ReferenceEvaluator(model).run(None, wanted), strict=True))


def a_graph(choices: Sequence[tuple[int, int, int]], exits: int) -> Any:
    """Sums of earlier tensors and constants: node i adds two earlier tensors or constants; exits hang on some nodes.

    Constants are weights, or nodes of which some are used by several others. The images are (N, 2).
    """
    tensors, constants = [graph.IMAGES], []
    shared = onnx.numpy_helper.from_array(np.full(2, 0.5, np.float32))
    nodes = [
        onnx.helper.make_node("Constant", [], ["shared"], value=shared),
        onnx.helper.make_node("Neg", ["shared"], ["negated"]),
    ]
    for i, (left, right, constant) in enumerate(choices):
        one, other = tensors[left % len(tensors)], tensors[right % len(tensors)]
        if constant == 1:
            constants.append(onnx.numpy_helper.from_array(np.full(2, i + 1, np.float32), f"c{i}"))
            other = f"c{i}"
        elif constant:
            other = ("shared", "negated")[constant - 2]
        nodes.append(onnx.helper.make_node("Add", [one, other], [f"t{i}"]))
        tensors.append(f"t{i}")
    ends = np.linspace(1, len(tensors) - 1, exits).astype(int)
    nodes += [onnx.helper.make_node("Neg", [tensors[end]], [graph.logits_name(k)]) for k, end in enumerate(ends)]
    kind = onnx.TensorProto.FLOAT
    images = onnx.helper.make_tensor_value_info(graph.IMAGES, kind, ["N", 2])
    logits = [onnx.helper.make_tensor_value_info(graph.logits_name(k), kind, ["N", 2]) for k in range(exits)]
    body = onnx.helper.make_graph(nodes, "whole", [images], logits, constants)
    return onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


GRAPHS = st.builds(
    a_graph,
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 3)), min_size=3, max_size=14),
    st.integers(1, 4),
)
IMAGES = np.array([[0.5, -1.0], [2.0, 3.0], [0.25, 8.0]], np.float32)


def exits_of(whole: Any) -> int:
    return len(whole.graph.output)


def run_stages(pieces: Sequence[graph.Piece]) -> dict[str, Any]:
    """All that the stages give, each run on what those before it gave."""
    tensors: dict[str, Any] = {graph.IMAGES: IMAGES}
    for piece in pieces:
        tensors |= evaluate(piece.model, tensors)
    return tensors


@given(GRAPHS)
def test_stages_one_after_the_other_give_what_the_whole_graph_gives(whole: Any) -> None:
    found = run_stages(graph.cut_stages(whole, exits_of(whole)))
    for name, logits in evaluate(whole, {graph.IMAGES: IMAGES}).items():
        assert np.array_equal(found[name], logits)


@given(GRAPHS)
def test_the_way_straight_to_an_exit_gives_what_the_whole_graph_gives(whole: Any) -> None:
    wanted = evaluate(whole, {graph.IMAGES: IMAGES})
    for k in range(exits_of(whole)):
        direct = graph.cut_direct(whole, k)
        assert direct.gives == (graph.logits_name(k),)
        assert set(direct.reads) <= {graph.IMAGES}
        assert np.array_equal(
            evaluate(direct.model, {graph.IMAGES: IMAGES})[graph.logits_name(k)], wanted[direct.gives[0]]
        )


@given(GRAPHS)
def test_no_node_is_computed_twice_and_none_that_no_exit_needs(whole: Any) -> None:
    pieces = graph.cut_stages(whole, exits_of(whole))
    made = [name for piece in pieces for node in piece.model.graph.node for name in node.output]
    once = [name for name in made if name not in ("shared", "negated")]
    assert len(once) == len(set(once))
    needed = {
        name for k in range(len(pieces)) for n in graph.cut_direct(whole, k).model.graph.node for name in n.output
    }
    assert set(made) == needed


@given(GRAPHS)
def test_a_stage_gives_its_logits_first_and_then_only_what_a_later_one_reads(whole: Any) -> None:
    pieces = graph.cut_stages(whole, exits_of(whole))
    for k, piece in enumerate(pieces):
        later = {name for after in pieces[k + 1 :] for name in after.reads}
        assert piece.gives[0] == graph.logits_name(k)
        assert set(piece.gives[1:]) <= later
        known = {graph.IMAGES, *(name for before in pieces[:k] for name in before.gives)}
        assert set(piece.reads) <= known
        assert not {"shared", "negated"} & {*piece.reads, *piece.gives}
        assert [value.name for value in piece.model.graph.input] == list(piece.reads)
        assert [value.name for value in piece.model.graph.output] == list(piece.gives)


@given(GRAPHS)
def test_stages_put_together_again_give_what_the_whole_graph_gave(whole: Any) -> None:
    joined = graph.join_stages([piece.model for piece in graph.cut_stages(whole, exits_of(whole))])
    wanted, found = (evaluate(model, {graph.IMAGES: IMAGES}) for model in (whole, joined))
    assert list(found) == list(wanted)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_stages_of_the_network_answer_as_it_does(bundle: Path) -> None:
    images = network_input(2)
    tensors: dict[str, Any] = {graph.IMAGES: images}
    for k, wanted in enumerate(expected(images)):
        tensors |= evaluate(graph.read(bundle / f"stage-{k}.onnx"), tensors)
        assert_close(tensors[graph.logits_name(k)], wanted)
        direct = evaluate(graph.read(bundle / f"direct-{k}.onnx"), {graph.IMAGES: images})
        assert_close(direct[graph.logits_name(k)], wanted)


def test_every_weight_is_stored_once_and_shared_by_all_graphs(bundle: Path) -> None:
    places: dict[str, set[tuple[str, int, int]]] = {}
    for path in bundle.glob("*.onnx"):
        for constant in onnx.load(path, load_external_data=False).graph.initializer:
            if constant.data_location == onnx.TensorProto.EXTERNAL:
                about = {entry.key: entry.value for entry in constant.external_data}
                place = about["location"], int(about["offset"]), int(about["length"])
                places.setdefault(constant.name, set()).add(place)
            else:
                assert len(constant.raw_data) < 256
    assert all(len(found) == 1 for found in places.values())
    stored = sorted((offset, length) for ((_, offset, length),) in places.values())
    assert all(offset % 64 == 0 for offset, _ in stored)
    assert all(first + length <= after for (first, length), (after, _) in pairwise(stored))
    assert sum(length for _, length in stored) <= (bundle / graph.WEIGHTS).stat().st_size
    assert (bundle / graph.WEIGHTS).stat().st_size < sum(length for _, length in stored) + 64 * len(stored)


def test_graphs_written_and_read_again_hold_the_same_weights(tmp_path: Path) -> None:
    heavy = onnx.numpy_helper.from_array(np.arange(400, dtype=np.float32).reshape(2, 200), "heavy")
    light = onnx.helper.make_tensor("light", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])  # not as bytes
    nodes = [
        onnx.helper.make_node("MatMul", [graph.IMAGES, "heavy"], ["t"]),
        onnx.helper.make_node("MatMul", ["t", "tall"], ["u"]),
        onnx.helper.make_node("Add", ["u", "light"], [graph.logits_name(0)]),
    ]
    tall = onnx.helper.make_tensor("tall", onnx.TensorProto.FLOAT, [200, 2], [0.5] * 400)  # not as bytes either
    kind = onnx.TensorProto.FLOAT
    inputs = [onnx.helper.make_tensor_value_info(graph.IMAGES, kind, ["N", 2])]
    outputs = [onnx.helper.make_tensor_value_info(graph.logits_name(0), kind, ["N", 2])]
    body = onnx.helper.make_graph(nodes, "whole", inputs, outputs, [heavy, light, tall])
    whole = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    wanted = evaluate(whole, {graph.IMAGES: IMAGES})[graph.logits_name(0)]
    piece = graph.cut_direct(whole, 0)
    graph.write({"a.onnx": piece.model, "b.onnx": piece.model}, tmp_path)
    for name in ("a.onnx", "b.onnx"):
        assert np.array_equal(
            evaluate(graph.read(tmp_path / name), {graph.IMAGES: IMAGES})[graph.logits_name(0)], wanted
        )
    assert (tmp_path / graph.WEIGHTS).stat().st_size == 1600 + 1600
    assert (tmp_path / "a.onnx").stat().st_size < 1600


def test_nothing_in_a_bundle_tells_where_it_was_made(bundle: Path) -> None:
    here = str(Path(__file__).parent.parent).encode()
    assert not [path.name for path in bundle.iterdir() if here in path.read_bytes()]
