"""Stages in OpenVINO.

Its convolutions keep feature maps with channels last. So that stages hand them over as they are, the borders are declared
channels last too, and in the type the stages compute in. That spares the conversions only where the number of images is
known when a graph is compiled: batches are therefore run in parts of a few fixed sizes, each compiled when first needed.
"""

import hashlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offramp_runtime import __version__
from offramp_runtime.cache import cached, unusable
from offramp_runtime.cancellation import Cancellation
from offramp_runtime.errors import ArtifactError, ConfigError, MissingExtraError
from offramp_runtime.graph import IMAGES, WEIGHTS
from offramp_runtime.machine import cpu_features, cpu_name, version_of
from offramp_runtime.pool import Block, Lent, Pool
from offramp_runtime.precision import Precision
from offramp_runtime.states import Form, GraphStages, State

if TYPE_CHECKING:
    from openvino import CompiledModel, Core, InferRequest, Model, Tensor


_SIZES = (64, 16, 4, 1)
"""Numbers of images graphs are compiled for; a batch is cut into the largest that fit."""
_BLOB = "compiled.blob"


class OpenVINOStages(GraphStages):
    """The stages of one network.

    States may be stepped from several threads at once; OpenVINO lets calls of the same stage wait for each other. Each
    graph holds weights of its own in memory: those straight to an exit share none with the stages.

    Args:
        stages: graphs of the stages, (K,).
        direct: graphs straight to each exit, (K,).
        weights: the file all of them take their weights from.
        threads: that compute one call.
        precision: to compute in; for int8, the graphs must have been quantised.

    Raises:
        ConfigError: bf16 on a CPU without it.
        MissingExtraError: openvino is not installed.
    """

    def __init__(
        self, stages: Sequence[Path], direct: Sequence[Path], weights: Path, *, threads: int, precision: Precision
    ) -> None:
        sources = (*stages, *direct, weights)
        compiler = _Compiler(threads, precision, sources)
        graphs = [_Graph(path, compiler) for path in stages]
        for graph in graphs:
            graph.prepare()
        self._direct = [_Graph(path, compiler) for path in direct]
        super().__init__(graphs, graphs[0].image_shape, _tensor)

    def step_unless(self, cancelled: Cancellation, k: int, state: State) -> tuple[State, NDArray[np.float32]] | None:
        """:meth:`step`, or None when ``cancelled`` was set before the stage was done.

        A stage that has begun is computed to its end: OpenVINO can only give up what it computes in threads of its own,
        and handing every stage to one costs more than it saves.
        """
        if cancelled.is_set:
            return None
        done = self.step(k, state)
        return None if cancelled.is_set else done

    def direct(self, k: int, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (N, C) of exit k, skipping earlier exits and whatever only they need."""
        graph = self._direct[k]
        graph.prepare()
        (logits,) = graph.run([self._own(images)], len(images), self._pool, None)
        return np.array(logits.array, np.float32)


class _Graph:
    """One graph, compiled for some numbers of images."""

    def __init__(self, path: Path, compiler: "_Compiler") -> None:
        self._path = path
        self._compiler = compiler
        self._compiling = threading.Lock()
        self._compiled: dict[int, CompiledModel] = {}
        self._idle: dict[int, deque[InferRequest]] = {}
        self.reads: tuple[str, ...] = ()
        self.gives: tuple[str, ...] = ()
        self.forms: list[Form] = []

    def prepare(self) -> None:
        """Compile for one image, which tells what goes in and out."""
        if not self.forms:
            model = self._for_size(1)
            self.reads = tuple(port.any_name for port in model.inputs)
            self.gives = tuple(port.any_name for port in model.outputs)
            self.forms = [(tuple(port.shape)[1:], _array_type(port.element_type)) for port in model.outputs]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of the images it reads."""
        return tuple(self._for_size(1).input(IMAGES).shape)[1:]

    def run(self, read: Sequence[Lent], samples: int, pool: Pool, options: None) -> list[Lent]:
        """The outputs, in memory of the pool."""
        made = [pool.lend((samples, *shape), dtype) for shape, dtype in self.forms]
        for first, size in _parts(samples):
            model, idle = self._for_size(size), self._idle[size]
            try:
                request = idle.pop()
            except IndexError:
                request = model.create_infer_request()
            _set(request, *([_part(lent, first, size) for lent in side] for side in (read, made)))
            _infer(request, options)
            idle.append(request)
        return made

    def takes(self, samples: int) -> bool:
        """Numbers of images it is compiled for."""
        return samples in _SIZES

    def bind(self, read: Sequence[Block], written: Sequence[Block]) -> Callable[[Any], object]:
        """What runs it on this memory."""
        request = self._for_size(len(written[0].array)).create_infer_request()
        _set(request, *([block.value for block in side] for side in (read, written)))
        return partial(_infer, request)

    def _for_size(self, size: int) -> "CompiledModel":
        model = self._compiled.get(size)
        if model is None:
            with self._compiling:
                model = self._compiled.get(size)
                if model is None:
                    model = self._compiler.compiled(self._path, size)
                    self._idle[size] = deque()
                    self._compiled[size] = model
        return model


class _Compiler:
    """Compiles graphs as this module wants them, and keeps what it has compiled between starts."""

    def __init__(self, threads: int, precision: Precision, sources: Sequence[Path]) -> None:
        self._core = core()
        self._sources, self._digest = sources, _digest(sources)
        if precision == "bf16":
            _need_bf16(self._core)
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
        if _digest(self._sources) != self._digest:
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


def open_stages(folder: Path, num_exits: int, *, threads: int, precision: Precision) -> OpenVINOStages:
    """The stages of a bundle's folder.

    Raises:
        MissingExtraError: openvino is not installed.
        ConfigError: bf16 on a CPU without it.
        ArtifactError: the cache cannot be written.
    """
    stages, direct = ([folder / f"{part}-{k}.onnx" for k in range(num_exits)] for part in ("stage", "direct"))
    return OpenVINOStages(stages, direct, folder / WEIGHTS, threads=threads, precision=precision)


def _digest(sources: Sequence[Path]) -> str:
    """Of graphs and weights; what is compiled is kept in the cache under it."""
    digest = hashlib.sha256()
    for path in sources:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def core() -> "Core":
    """OpenVINO itself, one for the process.

    Each ``Core`` gives the thread that makes it a stack for signal handlers and frees it when it goes, whether or not it is
    still the one in use: with two of them, the next Ctrl-C can end the process with a segmentation fault.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    with _MAKING:
        return _made_core()


_MAKING = threading.Lock()


@cache
def _made_core() -> "Core":
    if find_spec("openvino") is None:
        raise MissingExtraError(
            "runtime 'openvino' needs openvino, which is not installed; install it: pip install 'offramp-runtime[openvino]'"
        )
    _import_silently()
    from openvino import Core

    return Core()


def _import_silently() -> None:
    """Import openvino so that it does not report its import to its makers over the network, as it otherwise does."""
    reporter = "openvino_telemetry"
    if reporter in sys.modules:
        return
    sys.modules[reporter] = None  # type: ignore[assignment]  # how Python is told that there is no such module
    try:
        import openvino  # noqa: F401
    finally:
        del sys.modules[reporter]


def _need_bf16(core: "Core") -> None:
    """Asked for bf16 on another CPU, OpenVINO would compute in float32 and not say so."""
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in able:
        raise ConfigError(
            f"precision bf16 in OpenVINO needs a CPU with avx512_bf16 or amx_bf16, this one has {', '.join(able)}; "
            "take fp32 or int8"
        )


def _parts(samples: int) -> Iterator[tuple[int, int]]:
    """First image and size of each part."""
    first = 0
    for size in _SIZES:
        while samples - first >= size:
            yield first, size
            first += size


def _part(lent: Lent, first: int, size: int) -> "Tensor":
    if len(lent.array) == size:
        whole: Tensor = lent.block.value
        return whole
    return _tensor(lent.array[first : first + size])


def _set(request: "InferRequest", read: "Sequence[Tensor]", written: "Sequence[Tensor]") -> None:
    for place, tensor in enumerate(read):
        request.set_input_tensor(place, tensor)
    for place, tensor in enumerate(written):
        request.set_output_tensor(place, tensor)


def _infer(request: "InferRequest", options: None) -> None:
    del options
    request.infer(share_outputs=True)  # they are not copied; where they go has been said


def _tensor(array: NDArray[Any]) -> "Tensor":
    """The same memory as OpenVINO calls it; NumPy has no bf16, so uint16 stands for it."""
    from openvino import Shape, Tensor, Type

    if array.dtype == np.uint16:
        return Tensor(array, Shape(array.shape), Type.bf16)
    return Tensor(array, shared_memory=True)


def _array_type(element_type: Any) -> str:
    from openvino import Type

    return "<u2" if element_type == Type.bf16 else np.dtype(element_type.to_dtype()).str
