"""Runtime ``openvino``: OpenVINO on the CPU."""

from offramp.engine.exported import ExportedRuntime
from offramp.engine.onnx import graphs_of, missing, needs_cpu
from offramp.engine.opening import RuntimeSpec, Subject
from offramp.errors import ConfigError, OfframpError


def _open(subject: Subject) -> ExportedRuntime:
    from offramp_runtime.openvino import open_stages

    stages = open_stages(
        graphs_of(subject), subject.net.num_exits, threads=subject.threads, precision=subject.precision
    )
    return ExportedRuntime(stages)


def _why_not(subject: Subject) -> OfframpError | None:
    from offramp_runtime.machine import cpu_features

    if subject.precision == "bf16" and not cpu_features() & {"avx512_bf16", "amx_bf16"}:
        return ConfigError(
            "precision bf16 in OpenVINO needs a CPU with avx512_bf16 or amx_bf16, which this one lacks; take fp32 or int8"
        )
    return missing("openvino", ("openvino", "onnx", "onnxscript"), "openvino") or needs_cpu("openvino", subject)


RUNTIMES = {"openvino": RuntimeSpec(("fp32", "bf16", "int8"), _open, _why_not)}
