"""Stages in ONNX Runtime.

ONNX Runtime keeps feature maps in blocks of channels and converts at the borders of every graph. So that stages hand them
over as they are, the stages' graphs are joined, optimised in one piece, and cut again: the borders then lie between blocked
kernels. The result belongs to a CPU and a version of ONNX Runtime and is kept in a cache.
"""

import contextlib
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offramp_runtime import __version__, graph
from offramp_runtime.cache import cached
from offramp_runtime.cancellation import Cancellation
from offramp_runtime.machine import cpu_features, cpu_name, version_of
from offramp_runtime.optimising import optimise, session_options
from offramp_runtime.pool import LARGE_BYTES, Block, Lent, Pool, Tensors

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, IOBinding


@dataclass(frozen=True, eq=False)
class OnnxState:
    """The tensors later stages read, by name."""

    samples: int
    tensors: Tensors


_BINDINGS = 8
"""Bindings kept per graph."""


class OnnxStages:
    """The stages of one network.

    Args:
        stages: optimised graphs of the stages, (K,), as :func:`optimise` writes them.
        direct: optimised graphs straight to each exit, (K,).
        threads: that compute one call.
    """

    def __init__(self, stages: Sequence[Path], direct: Sequence[Path], *, threads: int) -> None:
        graph.need_onnx()
        self._threads = threads
        self._stages = [_Session(path, threads) for path in stages]
        self._direct_paths = list(direct)
        self._direct: dict[int, _Session] = {}
        self._opening = threading.Lock()
        self._pool = Pool(_value)
        # What a later stage still reads: everything else is let go of after its last reader.
        self._alive = [
            frozenset(name for later in self._stages[k + 1 :] for name in later.reads) for k in range(len(stages))
        ]

    @property
    def num_exits(self) -> int:
        """K."""
        return len(self._stages)

    def start(self, images: NDArray[np.float32]) -> OnnxState:
        """State before stage 0, for normalised images (N, C, H, W)."""
        return OnnxState(len(images), {graph.IMAGES: _own(images, self._pool)})

    def step(self, k: int, state: OnnxState) -> tuple[OnnxState, NDArray[np.float32]]:
        """Run stage k; returns the next state and the logits (N, C) of exit k."""
        return self._step(k, state, None)

    def step_unless(
        self, cancelled: Cancellation, k: int, state: OnnxState
    ) -> tuple[OnnxState, NDArray[np.float32]] | None:
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

    def take(self, state: OnnxState, rows: NDArray[np.int64]) -> OnnxState:
        """The state of the samples ``rows`` (M,), in that order."""
        taken = {}
        for name, lent in state.tensors.items():
            taken[name] = self._pool.lend((len(rows), *lent.array.shape[1:]), lent.array.dtype.str)
            np.take(lent.array, rows, axis=0, out=taken[name].array, mode="clip")
        return OnnxState(len(rows), taken)

    def join(self, states: Sequence[OnnxState]) -> OnnxState:
        """The state of all samples of several states, one after the other."""
        samples = sum(state.samples for state in states)
        joined = {}
        for name, first in states[0].tensors.items():
            joined[name] = self._pool.lend((samples, *first.array.shape[1:]), first.array.dtype.str)
            np.concatenate([state.tensors[name].array for state in states], out=joined[name].array)
        return OnnxState(samples, joined)

    def direct(self, k: int, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (N, C) of exit k, skipping earlier exits and whatever only they need."""
        if k not in self._direct:
            with self._opening:
                self._direct.setdefault(k, _Session(self._direct_paths[k], self._threads))
        (logits,) = self._direct[k].run({graph.IMAGES: _own(images, self._pool)}, len(images), self._pool, None)
        return np.array(logits.array, np.float32)

    def _step(self, k: int, state: OnnxState, options: Any) -> tuple[OnnxState, NDArray[np.float32]]:
        stage = self._stages[k]
        logits, *made = stage.run(state.tensors, state.samples, self._pool, options)
        tensors = {**state.tensors, **dict(zip(stage.gives[1:], made, strict=True))}
        kept = {name: lent for name, lent in tensors.items() if name in self._alive[k]}
        return OnnxState(state.samples, kept), np.array(logits.array, np.float32)


class _Session:
    """One graph, ready to run on memory of ours."""

    def __init__(self, path: Path, threads: int) -> None:
        self._session = _open(path, threads)
        self.reads = tuple(entry.name for entry in self._session.get_inputs())
        self.gives = tuple(entry.name for entry in self._session.get_outputs())
        self._made: list[tuple[tuple[int, ...], str]] = []
        """Shape of each output without its first axis, and its type; known after the first run."""
        self._bindings: OrderedDict[tuple[int, ...], _Binding] = OrderedDict()

    def run(self, tensors: Tensors, samples: int, pool: Pool, options: Any) -> list[Lent]:
        """The outputs, in memory of the pool."""
        read = [tensors[name].block for name in self.reads]
        if not self._made:
            return self._first_run(read, pool, options)
        made = [pool.lend((samples, *shape), dtype) for shape, dtype in self._made]
        written = [lent.block for lent in made]
        self._session.run_with_iobinding(self._bound(read, written), options)
        return made

    def _first_run(self, read: list[Block], pool: Pool, options: Any) -> list[Lent]:
        binding = self._session.io_binding()
        for name, block in zip(self.reads, read, strict=True):
            binding.bind_ortvalue_input(name, block.value)
        for name in self.gives:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding, options)
        arrays = [value.numpy() for value in binding.get_outputs()]
        self._made = [(array.shape[1:], array.dtype.str) for array in arrays]
        return [pool.adopt(array) for array in arrays]

    def _bound(self, read: list[Block], written: list[Block]) -> "IOBinding":
        """Binding memory anew costs about as much as a small convolution, and most often it is the memory of before.

        A binding is used by one thread at a time, since nobody else was lent the blocks it writes to.
        """
        key = tuple(map(id, (*read, *written)))
        known = self._bindings.get(key)
        if known is None:
            binding = self._session.io_binding()
            for name, block in zip(self.reads, read, strict=True):
                binding.bind_ortvalue_input(name, block.value)
            for name, block in zip(self.gives, written, strict=True):
                binding.bind_ortvalue_output(name, block.value)
            blocks = (*read, *written)
            if any(block.array.nbytes > LARGE_BYTES for block in blocks):  # they would never be given back
                return binding
            known = self._bindings[key] = _Binding(binding, blocks)
            if len(self._bindings) > _BINDINGS:
                with contextlib.suppress(KeyError):  # another thread was faster
                    self._bindings.popitem(last=False)
        return known.binding


@dataclass(frozen=True, eq=False)
class _Binding:
    binding: "IOBinding"
    blocks: tuple[Block, ...]
    """Kept alive, so that none can come whose identity is the same."""


def open_stages(folder: Path, num_exits: int, *, threads: int) -> OnnxStages:
    """The stages of a bundle's folder; at the first start on this CPU they are optimised, which is kept in the cache.

    Raises:
        MissingExtraError: onnx or onnxruntime is not installed.
        ArtifactError: the cache cannot be written.
    """
    graph.need_onnx()
    sources = [folder / f"stage-{k}.onnx" for k in range(num_exits)]
    digest = hashlib.sha256()
    for path in (*sources, folder / graph.WEIGHTS):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    belongs_to = {
        "graphs": digest.hexdigest(),
        "onnxruntime": version_of("onnxruntime"),
        "offramp-runtime": __version__,
        "cpu": [cpu_name(), sorted(cpu_features())],
    }
    ready = cached("onnxruntime", belongs_to, lambda unfinished: optimise(sources, unfinished))
    stages, direct = ([ready / f"{part}-{k}.onnx" for k in range(num_exits)] for part in ("stage", "direct"))
    return OnnxStages(stages, direct, threads=threads)


def _value(array: NDArray[Any]) -> Any:
    from onnxruntime import OrtValue

    return OrtValue.ortvalue_from_numpy(array)


def _own(images: NDArray[np.float32], pool: Pool) -> Lent:
    """A copy, since whoever gave the images may change them before they are read."""
    lent = pool.lend(images.shape, "<f4")
    np.copyto(lent.array, images)
    return lent


def _open(path: Path, threads: int) -> "InferenceSession":
    import onnxruntime

    options = session_options(threads)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # has been done
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
