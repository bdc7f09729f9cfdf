"""Formats ``onnx`` and ``openvino``: the same ONNX graphs, which OpenVINO reads as they are; so weights are kept once."""

from collections.abc import Sequence
from pathlib import Path

from offramp.engine.graphs import write_graphs
from offramp.engine.opening import Subject
from offramp.export.bundle import Format, GraphFacts, described
from offramp_runtime import graph


def _write(subject: Subject, folder: Path) -> Sequence[GraphFacts]:
    write_graphs(subject.net, folder, subject.precision, subject.int8_graph)
    return [_facts(folder, k) for k in range(subject.net.num_exits)]


def _facts(folder: Path, k: int) -> GraphFacts:
    import onnx

    stage, direct = f"stage-{k}.onnx", f"direct-{k}.onnx"
    model = onnx.load(folder / stage, load_external_data=False).graph
    tensors = {}
    for part, values in (("reads", model.input), ("gives", model.output)):
        types = {value.name: value.type.tensor_type for value in values}
        tensors[part] = described(
            {name: [dim.dim_value for dim in kind.shape.dim][1:] for name, kind in types.items()},
            dtypes={name: onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name for name, kind in types.items()},
        )
    return {"stage": stage, "direct": direct, "weights": graph.WEIGHTS, **tensors}


_PACKAGES = ("torch", "onnx", "onnxscript")

FORMATS = {
    "onnx": Format(("fp32", "int8"), _write, (*_PACKAGES, "onnxruntime")),
    "openvino": Format(("fp32", "bf16", "int8"), _write, (*_PACKAGES, "openvino")),
}
