"""One graph of all exits, cut into a graph per stage, and put together again.

The cut follows from the graph alone: stage k holds the nodes that exit k needs and no earlier exit needed. Tensors that a
later stage reads keep their names, so the pieces of one graph fit together by name.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from offramp_runtime.errors import MissingExtraError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

IMAGES = "images"
"""Input of stage 0 and of every direct graph: normalised images (N, C, H, W)."""
WEIGHTS = "weights.bin"
"""The file beside the graphs that holds the weights of all of them, each once."""
_ALIGNMENT = 64
"""Bytes; weights are used where they lie in the mapped file."""
_SMALL = 256
"""Bytes below which a constant stays in its graph: shapes must be readable there."""


def logits_name(k: int) -> str:
    """What the logits of exit k are called in every graph."""
    return f"logits{k}"


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of the graph as a model of its own."""

    model: "ModelProto"
    reads: tuple[str, ...]
    """Inputs: the images, or tensors of earlier stages."""
    gives: tuple[str, ...]
    """Outputs: the logits, then the tensors later stages read."""


def need_onnx() -> None:
    """Refuse to go on where the extra is missing.

    Raises:
        MissingExtraError: it is.
    """
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise MissingExtraError(
                f"runtime 'onnx' needs {package}, which is not installed; install it: pip install 'offramp-runtime[onnx]'"
            )


def fixed_nodes(whole: "ModelProto") -> list["NodeProto"]:
    """Those that do not depend on the images, in order."""
    return [whole.graph.node[place] for place in sorted(_fixed(whole))]


def cut_stages(whole: "ModelProto", num_exits: int) -> list[Piece]:
    """The graph of each stage, (K,)."""
    fixed = _fixed(whole)
    done: set[int] = set()
    stages = []
    for k in range(num_exits):
        needed = _needed(whole, logits_name(k), done)
        stages.append([node for place, node in enumerate(whole.graph.node) if place in needed])
        done |= needed - fixed
    known = {name for place in fixed for name in whole.graph.node[place].output}
    pieces = []
    for k, nodes in enumerate(stages):
        later = {name for more in stages[k + 1 :] for node in more for name in node.input} - known
        made = [name for node in nodes for name in node.output]
        pieces.append(_piece(whole, nodes, (logits_name(k), *(name for name in made if name in later))))
    return pieces


def cut_direct(whole: "ModelProto", k: int) -> Piece:
    """The graph from the images straight to exit k."""
    needed = _needed(whole, logits_name(k), set())
    return _piece(whole, [n for place, n in enumerate(whole.graph.node) if place in needed], (logits_name(k),))


def join_stages(stages: Sequence["ModelProto"]) -> "ModelProto":
    """The graph of all exits, from those of the stages in order."""
    import onnx

    first = stages[0]
    constants = {constant.name: constant for stage in stages for constant in stage.graph.initializer}
    nodes = {tuple(node.output): node for stage in stages for node in stage.graph.node}
    graph = onnx.helper.make_graph(
        list(nodes.values()),
        "all_exits",
        list(first.graph.input),
        [stage.graph.output[0] for stage in stages],
        list(constants.values()),
    )
    return onnx.helper.make_model(graph, opset_imports=first.opset_import, ir_version=first.ir_version)


def write(models: Mapping[str, "ModelProto"], folder: Path) -> None:
    """Write the graphs under their names, and beside them the weights, each once."""
    kept: dict[str, tuple[int, int]] = {}
    with (folder / WEIGHTS).open("wb") as file:
        for model in models.values():
            for constant in model.graph.initializer:
                if constant.name not in kept and len(constant.raw_data) >= _SMALL:
                    file.write(bytes(-file.tell() % _ALIGNMENT))
                    kept[constant.name] = file.tell(), len(constant.raw_data)
                    file.write(constant.raw_data)
    for name, model in models.items():
        (folder / name).write_bytes(_without_weights(model, kept).SerializeToString())


def read(path: Path) -> "ModelProto":
    """A graph with its weights."""
    import onnx

    return onnx.load(path)


def _without_weights(model: "ModelProto", kept: Mapping[str, tuple[int, int]]) -> "ModelProto":
    import onnx

    light = onnx.ModelProto()
    light.CopyFrom(model)
    for constant in light.graph.initializer:
        if constant.name in kept:
            offset, length = kept[constant.name]
            constant.ClearField("raw_data")
            constant.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", WEIGHTS), ("offset", offset), ("length", length)):
                constant.external_data.add(key=key, value=str(value))
    return light


def _fixed(whole: "ModelProto") -> set[int]:
    """Places of nodes that do not depend on the images: they are no part of a state, every stage has its own."""
    varying = {value.name for value in whole.graph.input}
    fixed = set()
    for place, node in enumerate(whole.graph.node):
        if varying.isdisjoint(node.input):
            fixed.add(place)
        else:
            varying.update(node.output)
    return fixed


def _needed(whole: "ModelProto", output: str, done: Set[int]) -> set[int]:
    """Places of the nodes ``output`` depends on, without those in ``done`` and what only they need."""
    maker = {name: place for place, node in enumerate(whole.graph.node) for name in node.output}
    found: set[int] = set()
    open_names = [output]
    while open_names:
        place = maker.get(open_names.pop())
        if place is None or place in found or place in done:
            continue
        found.add(place)
        open_names += whole.graph.node[place].input
    return found


def _piece(whole: "ModelProto", nodes: Sequence["NodeProto"], gives: tuple[str, ...]) -> Piece:
    import onnx

    constants = {constant.name: constant for constant in whole.graph.initializer}
    made = {name for node in nodes for name in node.output}
    read = dict.fromkeys(name for node in nodes for name in node.input if name)  # in order, each once
    reads = tuple(name for name in read if name not in made and name not in constants)
    graph = onnx.helper.make_graph(
        list(nodes),
        "stage",
        _described(whole, reads),
        _described(whole, gives),
        [_raw(constants[name]) for name in read if name in constants],
    )
    model = onnx.helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)
    return Piece(model, reads, gives)


def _described(whole: "ModelProto", names: Iterable[str]) -> list["ValueInfoProto"]:
    import onnx

    known = {value.name: value for value in (*whole.graph.input, *whole.graph.output, *whole.graph.value_info)}
    return [known.get(name) or onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]


def _raw(constant: "TensorProto") -> "TensorProto":
    """The same constant with its values as bytes, which is the form that can lie in a file of its own."""
    import onnx

    if constant.HasField("raw_data"):
        return constant
    return onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(constant), constant.name)
