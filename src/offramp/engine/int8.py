"""Quantising a graph: convolutions compute with 8-bit integers, in ONNX Runtime and in OpenVINO alike.

Choices; benchmarks/int8.py measures what each is worth:

- Weights take 7 of 8 bits. Without VNNI or AMX a CPU adds products in pairs into 16 bits, which with all 8 bits overflow
  and cost up to a tenth of the accuracy; a model must not depend on where it runs.
- Activations are unsigned; ranges are the smallest and largest value seen.
- Tensors that are concatenated for a convolution share a range, so that joining them copies bytes and rounds nothing anew.
  Where a norm reads them, as in a DenseNet, they are joined as float32: each keeps a range of its own, and OpenVINO 2026.4
  crashes while it compiles a norm behind joined bytes.
- The convolution that reads the images and the classifiers stay float32: they cost little and matter much.
- What rounding weights adds to a channel on average is taken off its bias.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError
from offramp_runtime import graph
from offramp_runtime.files import write_atomic

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

_OPERATORS = ("Conv", "Relu", "Concat", "MaxPool")
_SAME_RANGE = ("Concat", "MaxPool")
_AT_ONCE = 8
"""Images whose activations are all in memory together."""


def quantize(path: Path, batches: Iterable[NDArray[np.float32]], out: Path) -> None:
    """Write the int8 form of a float32 graph of all exits; inputs and outputs stay float32.

    Every reader of a quantised tensor gets a dequantising node of its own, so that a cut between stages hands bytes over.

    Args:
        path: the graph, weights inside.
        batches: normalised images (n, C, H, W) that tell how large activations get; not augmented.
        out: file to write.

    Raises:
        DataError: there are no images.
        MissingExtraError: onnx or onnxruntime is not installed.
        ArtifactError: ``out`` cannot be written.
    """
    graph.need_onnx()
    plain = _simplified(path)
    seen = _observe(plain, batches)
    quantised = _quantised(plain, seen.ranges)
    _correct_biases(quantised, plain, seen.means)
    _dequantise_per_reader(quantised)
    data = _with_shapes(quantised).SerializeToString()
    write_atomic(out, lambda file: file.write(data))


@dataclass
class _Seen:
    """What calibration images have shown."""

    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Smallest and largest value of each tensor."""
    means: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Of each channel of what convolutions read, (C,)."""


def _simplified(path: Path) -> "ModelProto":
    """The same graph with constants computed beforehand."""
    import onnx
    import onnxruntime

    with TemporaryDirectory() as folder:
        simple = Path(folder) / "simple.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(simple)
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return onnx.shape_inference.infer_shapes(onnx.load(simple))


def _observe(plain: "ModelProto", batches: Iterable[NDArray[np.float32]]) -> _Seen:
    """Run the images and look at every tensor that may be quantised."""
    import onnx
    import onnxruntime

    constants = {constant.name for constant in plain.graph.initializer} | {graph.IMAGES, ""}
    nodes = [node for node in plain.graph.node if node.op_type in _OPERATORS]
    touched = dict.fromkeys(name for node in nodes for name in (*node.input, *node.output))
    names = [name for name in touched if name not in constants]
    probe = onnx.ModelProto()
    probe.CopyFrom(plain)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    read = {node.input[0] for node in plain.graph.node if node.op_type == "Conv"}
    seen, images_seen = _Seen(), 0
    for batch in batches:
        for first in range(0, len(batch), _AT_ONCE):
            images = batch[first : first + _AT_ONCE]
            values = dict(zip(names, session.run(names, {graph.IMAGES: images}), strict=True)) | {graph.IMAGES: images}
            for name, value in values.items():
                _note(seen, name, value, with_mean=name in read)
            images_seen += len(images)
    if not images_seen:
        raise DataError("no images to quantise with: activations have no range yet; give at least one batch")
    seen.means = {name: total / images_seen for name, total in seen.means.items()}
    return seen


def _note(seen: _Seen, name: str, value: NDArray[np.float32], *, with_mean: bool) -> None:
    low, high = seen.ranges.get(name, (0.0, 0.0))
    seen.ranges[name] = min(low, float(value.min())), max(high, float(value.max()))
    if with_mean:
        total = value.mean((2, 3), dtype=np.float64).sum(0)
        seen.means[name] = seen.means.get(name, 0.0) + total


def _quantised(plain: "ModelProto", ranges: Mapping[str, tuple[float, float]]) -> "ModelProto":
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    floats = _joined_as_floats(plain)
    shared = _shared_ranges(plain, ranges, floats)
    limits = {name: (np.float32(low).reshape(()), np.float32(high).reshape(())) for name, (low, high) in shared.items()}
    quantizer = QDQQuantizer(
        plain,
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
        nodes_to_quantize=[],
        nodes_to_exclude=[*_stem(plain), *sorted(floats)],
        op_types_to_quantize=list(_OPERATORS),
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    model: ModelProto = quantizer.model.model
    return model


def _joined_as_floats(plain: "ModelProto") -> set[str]:
    """Names of the joins that something else than quantised nodes reads, directly or through other joins."""
    readers: dict[str, list[NodeProto]] = {}
    for node in plain.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    floats: set[str] = set()
    for node in reversed(plain.graph.node):  # readers come later
        if node.op_type == "Concat" and any(
            reader.op_type not in _OPERATORS or reader.name in floats for reader in readers.get(node.output[0], ())
        ):
            floats.add(node.name)
    return floats


def _shared_ranges(
    plain: "ModelProto", ranges: Mapping[str, tuple[float, float]], floats: Container[str]
) -> dict[str, tuple[float, float]]:
    """Ranges of which those that meet in one tensor are the same."""
    family = {name: {name} for name in ranges}
    for node in plain.graph.node:
        if node.op_type in _SAME_RANGE and node.name not in floats:
            members = set().union(*(family[name] for name in (*node.input, *node.output) if name in family))
            family |= dict.fromkeys(members, members)
    limits = {name: np.array([ranges[member] for member in members]) for name, members in family.items()}
    return {name: (float(pairs[:, 0].min()), float(pairs[:, 1].max())) for name, pairs in limits.items()}


def _stem(plain: "ModelProto") -> list[str]:
    """Names of the convolutions that read the images, and of what activates them."""
    convs = [node for node in plain.graph.node if node.op_type == "Conv" and node.input[0] == graph.IMAGES]
    made = {node.output[0] for node in convs}
    activations = [node for node in plain.graph.node if node.op_type == "Relu" and node.input[0] in made]
    return [node.name for node in (*convs, *activations)]


def _correct_biases(quantised: "ModelProto", plain: "ModelProto", means: Mapping[str, NDArray[np.float64]]) -> None:
    """Let each channel of a convolution keep its mean; what lies beyond the edges of a map is not considered."""
    import onnx

    maker = {name: node for node in quantised.graph.node for name in node.output}
    rounded = {constant.name: constant for constant in quantised.graph.initializer}
    exact = {constant.name: constant for constant in plain.graph.initializer}
    original = {node.name: node for node in plain.graph.node if node.op_type == "Conv"}
    for node in quantised.graph.node:
        if node.op_type != "Conv" or len(node.input) < 3 or node.input[1] not in maker:
            continue
        weight = _dequantised(maker[node.input[1]], rounded)
        error = weight - onnx.numpy_helper.to_array(exact[original[node.name].input[1]])
        per_input = error.sum(axis=(2, 3))  # (C out, C in of a group)
        shift = _grouped(per_input, means[original[node.name].input[0]])
        bias, scale = (rounded[name] for name in maker[node.input[2]].input[:2])
        steps = np.rint(shift / onnx.numpy_helper.to_array(scale)).astype(np.int32)
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) - steps, bias.name))


def _grouped(per_input: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over input channels of (C out, C in / groups) times their means (C in,); (C out,)."""
    groups = len(mean) // per_input.shape[1]
    split = per_input.reshape(groups, -1, per_input.shape[1])
    shift: NDArray[np.float64] = np.einsum("goi,gi->go", split, mean.reshape(groups, -1)).reshape(-1)
    return shift


def _dequantised(node: "NodeProto", constants: Mapping[str, "TensorProto"]) -> NDArray[np.float64]:
    """Values of weights (C out, ...) rounded per output channel."""
    import onnx

    values, scale = (onnx.numpy_helper.to_array(constants[name]).astype(np.float64) for name in node.input[:2])
    return values * scale.reshape(-1, *[1] * (values.ndim - 1))


def _dequantise_per_reader(model: "ModelProto") -> None:
    import onnx

    maker = {n.output[0]: n for n in model.graph.node if n.op_type == "DequantizeLinear"}
    readers: dict[str, int] = {}
    nodes = []
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name not in maker:
                continue
            readers[name] = readers.get(name, 0) + 1
            if readers[name] > 1:
                again = onnx.NodeProto()
                again.CopyFrom(maker[name])
                again.name, again.output[0] = (f"{text}_{readers[name]}" for text in (again.name, name))
                node.input[place] = again.output[0]
                nodes.append(again)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _with_shapes(model: "ModelProto") -> "ModelProto":
    """With type and shape of every tensor, which whoever cuts the graph declares at the borders."""
    import onnx

    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model)
