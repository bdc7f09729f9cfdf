"""Opening a bundle."""

from pathlib import Path
from typing import Any

from offramp_runtime.bundle import Bundle, read_bundle
from offramp_runtime.checks import check_threads
from offramp_runtime.errors import ArtifactError, ConfigError
from offramp_runtime.graph import WEIGHTS
from offramp_runtime.machine import place_of, usable_cores
from offramp_runtime.model import Model
from offramp_runtime.stages import Stages

KINDS = ("onnx", "openvino")
"""What this distribution can run."""


def load(folder: str | Path, *, threads: int | None = None, runtime: str | None = None) -> Model:
    """The model of a bundle that ``offramp export`` wrote for ONNX Runtime or OpenVINO.

    Args:
        folder: the bundle.
        threads: that compute one call; by default all cores this process may use.
        runtime: what computes; by default what the bundle was written for. ``"native"`` compiles an MSDNet for this CPU,
            and needs a C compiler to.

    Raises:
        ArtifactError: no bundle, a damaged, mixed or foreign one, or one of a newer release.
        ConfigError: its precision needs a feature this CPU lacks, fewer threads than one or more than cores, or a runtime
            that cannot run it.
        MissingExtraError: onnxruntime, openvino or onnx is not installed.
    """
    check_threads(threads)
    bundle = read_bundle(Path(folder))
    _check_names(bundle)
    chosen = threads or usable_cores()
    manifest = bundle.manifest
    used = runtime or manifest.kind
    return Model(bundle, _open(bundle, used, chosen), used, place_of(used, manifest.precision, chosen))


def _check_names(bundle: Bundle) -> None:
    """What is opened is what the manifest names and digests cover."""
    for k, graph in enumerate(bundle.manifest.graphs if bundle.manifest.kind in KINDS else ()):
        wanted = {"stage": f"stage-{k}.onnx", "direct": f"direct-{k}.onnx", "weights": WEIGHTS}
        found = {part: graph.get(part) for part in wanted}
        if found != wanted:
            raise ArtifactError(
                f"{bundle.folder}: stage {k} is in {', '.join(map(str, found.values()))} instead of "
                f"{', '.join(wanted.values())}; export the model again"
            )


def _open(bundle: Bundle, runtime: str, threads: int) -> Stages[Any]:
    manifest, folder = bundle.manifest, bundle.folder
    if manifest.kind not in KINDS:
        raise ArtifactError(
            f"{folder}: a bundle for {manifest.kind}, which this package does not run; "
            f"export the model for one of {', '.join(KINDS)}"
        )
    if runtime not in (manifest.kind, "native"):
        raise ConfigError(f"runtime '{runtime}' for a bundle written for {manifest.kind}: take that, or 'native'")
    if runtime == "native":
        from offramp_runtime import native

        return native.open_stages(folder, manifest.num_exits, threads=threads, precision=manifest.precision)
    if manifest.kind == "onnx":
        from offramp_runtime import onnx

        return onnx.open_stages(folder, manifest.num_exits, threads=threads)
    from offramp_runtime import openvino

    return openvino.open_stages(folder, manifest.num_exits, threads=threads, precision=manifest.precision)
