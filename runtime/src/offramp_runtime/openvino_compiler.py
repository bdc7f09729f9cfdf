"""Compiling graphs with OpenVINO, once for a machine."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from offramp_runtime import __version__
from offramp_runtime.cache import cached, digest_of, unusable
from offramp_runtime.errors import ArtifactError
from offramp_runtime.graph import IMAGES
from offramp_runtime.machine import cpu_features, cpu_name, version_of
from offramp_runtime.openvino_core import core, need_bf16
from offramp_runtime.precision import Precision

if TYPE_CHECKING:
    from openvino import CompiledModel, Model

_BLOB = "compiled.blob"


class Compiler:
    """Compiles graphs as this module wants them, and keeps what it has compiled between starts."""

    def __init__(self, threads: int, precision: Precision, sources: Sequence[Path]) -> None:
        self._core = core()
        self._sources, self._digest = sources, digest_of(sources)
        if precision == "bf16":
            need_bf16(self._core)
        self._bf16 = precision == "bf16"
        self._settings = {
            "INFERENCE_NUM_THREADS": threads,
            # Never the default, which is bf16 wherever the CPU has it.
            "INFERENCE_PRECISION_HINT": "bf16" if self._bf16 else "f32",
            "NUM_STREAMS": 1,
            # Threads bound to a core wait for whoever else computes there.
            "ENABLE_CPU_PINNING": False,
        }
        self._belongs_to = {
            "graphs": self._digest,
            "settings": {name: str(value) for name, value in self._settings.items()},
            "openvino": version_of("openvino"),
            "offramp-runtime": __version__,
            "cpu": [cpu_name(), sorted(cpu_features())],
        }

    def compiled(self, path: Path, size: int) -> "CompiledModel":
        """The graph for that many images; compiled now or at an earlier start."""
        belongs_to = {**self._belongs_to, "graph": path.name, "images": size}
        folder = cached("openvino", belongs_to, partial(self._compile, path, size))
        try:
            return self._core.import_model((folder / _BLOB).read_bytes(), "CPU", self._settings)
        except (RuntimeError, OSError) as error:
            raise unusable(folder, error) from None

    def _compile(self, path: Path, size: int, folder: Path) -> None:
        if digest_of(self._sources) != self._digest:
            raise ArtifactError(f"{path.parent}: has changed since it was opened; open it again")
        model = self._core.read_model(path)
        model.reshape({port.any_name: [size, *list(port.partial_shape)[1:]] for port in model.inputs})
        compiled = self._core.compile_model(self._with_native_borders(model), "CPU", self._settings)
        (folder / _BLOB).write_bytes(compiled.export_model().getvalue())

    def _with_native_borders(self, model: "Model") -> "Model":
        """The same model with maps from and to other stages channels last, and in bf16 if that is computed in."""
        from openvino import Layout, Type
        from openvino.preprocess import PrePostProcessor

        change = PrePostProcessor(model)
        borders = [(port, change.input(n)) for n, port in enumerate(model.inputs) if port.any_name != IMAGES]
        borders += [(port, change.output(n)) for n, port in enumerate(model.outputs) if n > 0]
        for port, border in borders:
            if len(port.partial_shape) == 4:
                border.model().set_layout(Layout("NCHW"))
                border.tensor().set_layout(Layout("NHWC"))
            if self._bf16 and port.element_type == Type.f32:
                border.tensor().set_element_type(Type.bf16)
        return change.build()
