"""Graphs as ONNX Runtime runs them on this CPU: made once, and opened from then on as they are."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from offramp_runtime import graph
from offramp_runtime.padding import pad_small_maps

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import SessionOptions


def optimise(stages: Sequence[Path], folder: Path) -> None:
    """Write the graphs of ``stages``, and those straight to each exit, as ONNX Runtime runs them on this CPU.

    Args:
        stages: graphs of a bundle, (K,).
        folder: where ``stage-k.onnx``, ``direct-k.onnx`` and their weights go.
    """
    import onnxruntime

    graph.need_onnx()
    whole = graph.join_stages([graph.read(path) for path in stages])
    options = session_options(1)
    optimised = folder / "all-exits.onnx"
    options.optimized_model_filepath = str(optimised)
    onnxruntime.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
    blocked = pad_small_maps(graph.read(optimised))
    _tell_types(blocked, len(stages))
    optimised.unlink()
    models = {f"stage-{k}.onnx": piece.model for k, piece in enumerate(graph.cut_stages(blocked, len(stages)))}
    models |= {f"direct-{k}.onnx": graph.cut_direct(blocked, k).model for k in range(len(stages))}
    graph.write(models, folder)


def _tell_types(whole: "ModelProto", num_exits: int) -> None:
    """Note what tensors between stages are made of, which an optimised graph leaves out and inputs must say."""
    import onnx
    import onnxruntime

    given = dict.fromkeys(name for piece in graph.cut_stages(whole, num_exits) for name in piece.gives[1:])
    asked = onnx.ModelProto()
    asked.CopyFrom(whole)
    asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in given)
    options = session_options(1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(asked.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": onnx.TensorProto.FLOAT, "tensor(uint8)": onnx.TensorProto.UINT8}
    kinds["tensor(int8)"] = onnx.TensorProto.INT8
    for entry in session.get_outputs()[num_exits:]:
        whole.graph.value_info.append(onnx.helper.make_tensor_value_info(entry.name, kinds[entry.type], None))


def session_options(threads: int) -> "SessionOptions":
    """For so many threads that compute one call."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that an optimised graph belongs to this machine, which is known here
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads
    if threads > 1:
        # Every session has threads of its own; spinning on, those of one stage would take the cores from the next. A pool
        # for all would be that of the whole process: none of its sessions could then have another number of threads.
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return options
