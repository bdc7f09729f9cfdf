"""Zeros around small maps, set before strided convolutions instead of inside them.

ONNX Runtime's blocked kernels take the outputs at the left and right edge one by one, and load all weights for each. On a
map of 8 pixels a side that a 3x3 convolution halves, half of the outputs lie there: with the zeros around it beforehand,
rows are computed in one go. The sums and their order stay the same, and so do the results, bit by bit.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from offramp_runtime.graph import IMAGES
from offramp_runtime.machine import cpu_features

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_SIDE = 8
"""Pixels a side up to which it pays (benchmarks of MSDNets at 8 and 7 pixels: 7 to 12 % of the whole network's time)."""
_BLOCKED = "com.microsoft.nchwc"


def pad_small_maps(blocked: "ModelProto") -> "ModelProto":
    """The optimised graph of all exits with such convolutions padded beforehand; as it was where that changes a result."""
    import onnx

    shapes, plain = _run(blocked)
    block = 16 if "avx512f" in cpu_features() else 8
    padded = onnx.ModelProto()
    padded.CopyFrom(blocked)
    del padded.graph.node[:]
    for node in blocked.graph.node:
        shape = shapes.get(node.input[0]) if node.input else None
        if shape is None or not _worth_it(node, shape) or shape[1] % block:
            padded.graph.node.append(node)
        else:
            _append_padded(padded, node, shape, block)
    # The layout of the blocks is nowhere promised, so the answers are compared.
    _, changed = _run(padded)
    same = all(np.array_equal(changed[name], values) for name, values in plain.items())
    return padded if same else blocked


def _worth_it(node: "NodeProto", shape: tuple[int, ...]) -> bool:
    if node.op_type != "Conv" or node.domain != _BLOCKED or len(shape) != 4 or max(shape[2:]) > _SIDE:
        return False
    values = {attribute.name: list(attribute.ints) for attribute in node.attribute}
    return values.get("strides") == [2, 2] and values.get("pads") == [1, 1, 1, 1]


def _append_padded(model: "ModelProto", node: "NodeProto", shape: tuple[int, ...], block: int) -> None:
    """The map seen as (N, C / block, H, W, block), padded in H and W, seen as (N, C, H + 2, W + 2), and the convolution."""
    import onnx

    _, channels, height, width = shape
    name = f"{node.output[0]}_padded"
    constants = {
        f"{name}_split": [0, channels // block, height, width, block],
        f"{name}_zeros": [0, 0, 1, 1, 0, 0, 0, 1, 1, 0],
        f"{name}_whole": [0, channels, height + 2, width + 2],
    }
    for constant, values in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, np.int64), constant))
    split, zeros, whole = constants
    conv = onnx.NodeProto()
    conv.CopyFrom(node)
    conv.input[0] = name
    for attribute in conv.attribute:
        if attribute.name == "pads":
            attribute.ints[:] = [0, 0, 0, 0]
    model.graph.node.extend(
        [
            onnx.helper.make_node("Reshape", [node.input[0], split], [f"{name}_blocks"]),
            onnx.helper.make_node("Pad", [f"{name}_blocks", zeros], [f"{name}_wide"]),
            onnx.helper.make_node("Reshape", [f"{name}_wide", whole], [name]),
            conv,
        ]
    )


def _run(model: "ModelProto") -> tuple[Mapping[str, tuple[int, ...]], dict[str, NDArray[np.float32]]]:
    """Shape of every tensor, and the logits, for an image of noise."""
    import onnx
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    logits = [output.name for output in model.graph.output]
    for node in model.graph.node:
        probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name not in logits)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    sides = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    image = np.random.default_rng(0).standard_normal((1, *sides)).astype(np.float32)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, {IMAGES: image}), strict=True))
    return {name: value.shape for name, value in found.items()}, {name: found[name] for name in logits}
