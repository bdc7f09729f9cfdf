"""Runtime ``onnx``: ONNX Runtime on the CPU, stages handing over feature maps in its own layout."""

from importlib.util import find_spec
from pathlib import Path

from offramp import __version__
from offramp.engine.exported import ExportedRuntime
from offramp.engine.graphs import alignment, write_graphs
from offramp.engine.opening import RuntimeSpec, Subject
from offramp.errors import ConfigError, MissingExtraError, OfframpError
from offramp_runtime.cache import cached
from offramp_runtime.machine import version_of


def _open(subject: Subject) -> ExportedRuntime:
    from offramp_runtime.onnx import open_stages

    folder = graphs_of(subject)
    return ExportedRuntime(open_stages(folder, subject.net.num_exits, threads=subject.threads))


def graphs_of(subject: Subject, align: int | None = None) -> Path:
    """The folder of the network's portable graphs, written when first asked for.

    Args:
        subject: whose graphs.
        align: what channels are padded to a multiple of; by default what suits the runtimes that keep them in blocks.
    """
    align = alignment(subject.precision) if align is None else align
    belongs_to = {
        "net": subject.net.config.to_json() | {"family": subject.net.config.family},
        "weights": subject.digest,
        "precision": subject.precision,
        "align": align,
        "bounds": subject.precision == "fp32",
        "offramp": __version__,
        "torch": version_of("torch"),
        "onnxscript": version_of("onnxscript"),
    }
    return cached(
        "graphs",
        belongs_to,
        lambda folder: write_graphs(subject.net, folder, subject.precision, subject.int8_graph, align),
    )


def _why_not(subject: Subject) -> OfframpError | None:
    return missing("onnx", ("onnx", "onnxruntime", "onnxscript"), "onnx") or needs_cpu("onnx", subject)


def missing(name: str, packages: tuple[str, ...], extra: str) -> MissingExtraError | None:
    """What to raise where one of the packages that a runtime takes from an extra is not installed."""
    for package in packages:
        if find_spec(package) is None:
            return MissingExtraError(
                f"runtime '{name}' needs {package}, which is not installed; install it: pip install 'offramp[{extra}]'"
            )
    return None


def needs_cpu(name: str, subject: Subject) -> ConfigError | None:
    """What to raise where a runtime of the CPU was asked to run elsewhere."""
    if subject.device.type != "cpu":
        return ConfigError(
            f"runtime '{name}' runs on the CPU, not on {subject.device}; take 'eager' or 'compiled' there"
        )
    return None


RUNTIMES = {"onnx": RuntimeSpec(("fp32", "int8"), _open, _why_not)}
