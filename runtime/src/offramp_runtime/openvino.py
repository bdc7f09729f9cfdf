"""Stages in OpenVINO.

Its convolutions keep feature maps with channels last. So that stages hand them over as they are, the borders are declared
channels last too, and in the type the stages compute in. That spares the conversions only where the number of images is
known when a graph is compiled: batches are therefore run in parts of a few fixed sizes, each compiled when first needed.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offramp_runtime.cancellation import Cancellation
from offramp_runtime.graph import IMAGES, WEIGHTS
from offramp_runtime.openvino_compiler import Compiler
from offramp_runtime.pool import Block, Lent, Pool
from offramp_runtime.precision import Precision
from offramp_runtime.stages import check_exit
from offramp_runtime.states import Form, GraphStages, State

if TYPE_CHECKING:
    from openvino import CompiledModel, InferRequest, Tensor


_SIZES = (64, 16, 4, 1)
"""Numbers of images graphs are compiled for; a batch is cut into the largest that fit."""


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
        compiler = Compiler(threads, precision, sources)
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
        check_exit(k, self.num_exits)
        graph = self._direct[k]
        graph.prepare()
        (logits,) = graph.run([self._own(images)], len(images), self._pool, None)
        return np.array(logits.array, np.float32)


class _Graph:
    """One graph, compiled for some numbers of images."""

    def __init__(self, path: Path, compiler: "Compiler") -> None:
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


def open_stages(folder: Path, num_exits: int, *, threads: int, precision: Precision) -> OpenVINOStages:
    """The stages of a bundle's folder.

    Raises:
        MissingExtraError: openvino is not installed.
        ConfigError: bf16 on a CPU without it.
        ArtifactError: the cache cannot be written.
    """
    stages, direct = ([folder / f"{part}-{k}.onnx" for k in range(num_exits)] for part in ("stage", "direct"))
    return OpenVINOStages(stages, direct, folder / WEIGHTS, threads=threads, precision=precision)


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
