"""Opening a bundle."""

from pathlib import Path
from typing import Any

from offramp_runtime.bundle import Bundle, read_bundle
from offramp_runtime.checks import check_threads
from offramp_runtime.errors import ArtifactError
from offramp_runtime.graph import WEIGHTS
from offramp_runtime.machine import place_of, usable_cores
from offramp_runtime.model import Model
from offramp_runtime.stages import Stages

KINDS = ("onnx", "openvino")
"""What this distribution can run."""


def load(folder: str | Path, *, threads: int | None = None) -> Model:
    """The model of a bundle that ``offramp export`` wrote for ONNX Runtime or OpenVINO.

    Args:
        folder: the bundle.
        threads: that compute one call; by default all cores this process may use.

    Raises:
        ArtifactError: no bundle, a damaged, mixed or foreign one, or one of a newer release.
        ConfigError: its precision needs a feature this CPU lacks, or fewer threads than one or more than cores.
        MissingExtraError: onnxruntime or openvino is not installed.
    """
    check_threads(threads)
    bundle = read_bundle(Path(folder))
    _check_names(bundle)
    chosen = threads or usable_cores()
    manifest = bundle.manifest
    return Model(bundle, _open(bundle, chosen), place_of(manifest.kind, manifest.precision, chosen))


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


def _open(bundle: Bundle, threads: int) -> Stages[Any]:
    manifest = bundle.manifest
    if manifest.kind == "onnx":
        from offramp_runtime import onnx

        return onnx.open_stages(bundle.folder, manifest.num_exits, threads=threads)
    if manifest.kind == "openvino":
        from offramp_runtime import openvino

        stages: Stages[Any] = openvino.open_stages(
            bundle.folder, manifest.num_exits, threads=threads, precision=manifest.precision
        )
        return stages
    raise ArtifactError(
        f"{bundle.folder}: a bundle for {manifest.kind}, which this package does not run; "
        f"export the model for one of {', '.join(KINDS)}"
    )
