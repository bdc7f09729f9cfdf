"""Stages in ONNX Runtime.

ONNX Runtime keeps feature maps in blocks of channels and converts at the borders of every graph. So that stages hand them
over as they are, the stages' graphs are joined, optimised in one piece, and cut again: the borders then lie between blocked
kernels. The result belongs to a CPU and a version of ONNX Runtime and is kept in a cache.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offramp_runtime import __version__, graph
from offramp_runtime.cache import cached, digest_of, unusable
from offramp_runtime.cancellation import Cancellation
from offramp_runtime.machine import cpu_features, cpu_name, version_of
from offramp_runtime.optimising import optimise, session_options
from offramp_runtime.pool import Block, Lent, Pool
from offramp_runtime.stages import check_exit
from offramp_runtime.states import Form, GraphStages, State

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class OnnxStages(GraphStages):
    """The stages of one network.

    Args:
        stages: optimised graphs of the stages, (K,), as :func:`optimise` writes them.
        direct: optimised graphs straight to each exit, (K,).
        threads: that compute one call.
    """

    def __init__(self, stages: Sequence[Path], direct: Sequence[Path], *, threads: int) -> None:
        graph.need_onnx()
        self._threads = threads
        self._direct_paths = list(direct)
        self._direct: dict[int, _Session] = {}
        self._opening = threading.Lock()
        sessions = [_Session(path, threads) for path in stages]
        super().__init__(sessions, sessions[0].image_shape, _value)

    def step_unless(self, cancelled: Cancellation, k: int, state: State) -> tuple[State, NDArray[np.float32]] | None:
        """:meth:`step`, or None when ``cancelled`` was set before the stage was done."""
        from onnxruntime import RunOptions

        options = RunOptions()
        cancelled.attach(lambda: setattr(options, "terminate", True))
        try:
            return self._step(k, state, options)
        except Exception:  # that of a terminated run is of no class of its own
            if cancelled.is_set:
                return None
            raise

    def direct(self, k: int, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (N, C) of exit k, skipping earlier exits and whatever only they need."""
        check_exit(k, self.num_exits)
        if k not in self._direct:
            with self._opening:
                if k not in self._direct:
                    self._direct[k] = _Session(self._direct_paths[k], self._threads)
        (logits,) = self._direct[k].run([self._own(images)], len(images), self._pool, None)
        return np.array(logits.array, np.float32)


class _Session:
    """One graph, ready to run on memory of ours."""

    def __init__(self, path: Path, threads: int) -> None:
        self._session = _open(path, threads)
        self.reads = tuple(entry.name for entry in self._session.get_inputs())
        self.gives = tuple(entry.name for entry in self._session.get_outputs())
        self.forms: list[Form] = []
        """Known after the first run."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of the images it reads."""
        return tuple(self._session.get_inputs()[self.reads.index(graph.IMAGES)].shape[1:])

    def run(self, read: Sequence[Lent], samples: int, pool: Pool, options: Any) -> list[Lent]:
        """The outputs, in memory of the pool."""
        if not self.forms:
            return self._first_run(read, pool, options)
        made = [pool.lend((samples, *shape), dtype) for shape, dtype in self.forms]
        self.bind([lent.block for lent in read], [lent.block for lent in made])(options)
        return made

    def takes(self, samples: int) -> bool:
        """Any number of images."""
        del samples
        return True

    def bind(self, read: Sequence[Block], written: Sequence[Block]) -> Callable[[Any], object]:
        """What runs it on this memory."""
        binding = self._session.io_binding()
        for name, block in zip(self.reads, read, strict=True):
            binding.bind_ortvalue_input(name, block.value)
        for name, block in zip(self.gives, written, strict=True):
            binding.bind_ortvalue_output(name, block.value)
        return partial(self._session.run_with_iobinding, binding)

    def _first_run(self, read: Sequence[Lent], pool: Pool, options: Any) -> list[Lent]:
        binding = self._session.io_binding()
        for name, lent in zip(self.reads, read, strict=True):
            binding.bind_ortvalue_input(name, lent.block.value)
        for name in self.gives:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding, options)
        arrays = [value.numpy() for value in binding.get_outputs()]
        self.forms = [(array.shape[1:], array.dtype.str) for array in arrays]
        return [pool.adopt(array) for array in arrays]


def open_stages(folder: Path, num_exits: int, *, threads: int) -> OnnxStages:
    """The stages of a bundle's folder; at the first start on this CPU they are optimised, which is kept in the cache.

    Raises:
        MissingExtraError: onnx or onnxruntime is not installed.
        ArtifactError: the cache cannot be written.
    """
    graph.need_onnx()
    sources = [folder / f"stage-{k}.onnx" for k in range(num_exits)]
    belongs_to = {
        "graphs": digest_of((*sources, folder / graph.WEIGHTS)),
        "onnxruntime": version_of("onnxruntime"),
        "offramp-runtime": __version__,
        "cpu": [cpu_name(), sorted(cpu_features())],
    }
    ready = cached("onnxruntime", belongs_to, lambda unfinished: optimise(sources, unfinished))
    stages, direct = ([ready / f"{part}-{k}.onnx" for k in range(num_exits)] for part in ("stage", "direct"))
    try:
        return OnnxStages(stages, direct, threads=threads)
    except Exception as error:  # ONNX Runtime has a class for every reason
        raise unusable(ready, error) from None


def _value(array: NDArray[Any]) -> Any:
    from onnxruntime import OrtValue

    return OrtValue.ortvalue_from_numpy(array)


def _open(path: Path, threads: int) -> "InferenceSession":
    import onnxruntime

    options = session_options(threads)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # has been done
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
