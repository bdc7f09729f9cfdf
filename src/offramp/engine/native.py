"""Runtime ``native``: C made for the network and for this CPU."""

from offramp.engine.exported import ExportedRuntime
from offramp.engine.onnx import graphs_of, missing, needs_cpu
from offramp.engine.opening import RuntimeSpec, Subject
from offramp.errors import ConfigError, OfframpError

_FAMILIES = ("msdnet",)


def _open(subject: Subject) -> ExportedRuntime:
    from offramp_runtime import native

    stages = native.open_stages(
        graphs_of(subject, align=1), subject.net.num_exits, threads=subject.threads, precision=subject.precision
    )
    return ExportedRuntime(stages)


def _why_not(subject: Subject) -> OfframpError | None:
    from offramp_runtime import native

    family = subject.net.config.family
    if family not in _FAMILIES:
        return ConfigError(
            f"runtime 'native' runs networks of the family msdnet, not of {family}; take another runtime"
        )
    return (
        needs_cpu("native", subject)
        or missing("native", ("onnx", "onnxscript"), "onnx")
        or native.why_not(subject.precision)
        or native.why_no_compiler()
    )


RUNTIMES = {"native": RuntimeSpec(("fp32", "bf16", "int8"), _open, _why_not)}
