"""The stages of one network in a library made for it."""

import ctypes
import json
import platform
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from offramp_runtime import graph
from offramp_runtime.cache import cached, digest_of
from offramp_runtime.cancellation import Cancellation
from offramp_runtime.errors import ArtifactError, ConfigError, MissingExtraError, reason
from offramp_runtime.machine import cpu_features, cpu_name
from offramp_runtime.native.blocks import Vectors
from offramp_runtime.native.code import HEAD_BYTES, write_code
from offramp_runtime.native.compiler import compile_library, vectors, why_not
from offramp_runtime.native.layers import Network, read_network
from offramp_runtime.native.placing import place
from offramp_runtime.pool import aligned
from offramp_runtime.precision import Precision
from offramp_runtime.stages import check_exit

_LIBRARY, _WEIGHTS, _FACTS = "stages.so", "weights.bin", "facts.json"
_KEPT_BYTES = 2**29
"""Of memories for the next runs of a network, together."""
_KEPT_SCRATCH = 8
"""Scratch memories, one for each call that runs beside others."""

Floats: TypeAlias = NDArray[np.float32]


class _Rooms:
    """Room for one image each, where whatever is no pixel is zero and stays so; who uses which is counted in C.

    No lock is needed: every count is one atomic number, and appending to and popping from a deque is atomic too.
    """

    def __init__(self, library: ctypes.CDLL, words: int) -> None:
        self.library, self.words = library, words
        self._kept = max(1, _KEPT_BYTES // (4 * words))
        self._arrays: dict[int, Floats] = {}
        """By address."""
        self.free: deque[int] = deque()

    def take(self, count: int) -> "_Memories":
        """For so many samples."""
        taken: list[int] = []
        try:
            for _ in range(count):
                taken.append(self._one())
        except BaseException:  # among them MemoryError, after which fewer may be asked for
            self.give_back(taken)
            raise
        return _Memories(self, np.array(taken, np.uintp))

    def give_back(self, unused: Sequence[int]) -> None:
        """Rooms that nobody uses: about as many as :data:`_KEPT_BYTES` says are kept for the next."""
        for address in unused:
            if len(self.free) < self._kept:
                self.free.append(address)
            else:
                del self._arrays[address]

    def _one(self) -> int:
        try:
            return self.free.pop()
        except IndexError:
            head = HEAD_BYTES // 4
            array = _zeros(head + self.words)
            address: int = array.ctypes.data + HEAD_BYTES
            self._arrays[address] = array
            self.library.open_memory(address)
            return address


class _Memories:
    """Of some samples: rooms that are in use, each as often as it occurs, as long as this object is there."""

    __slots__ = ("_held", "addresses", "each", "ordered", "rooms", "sorted")

    def __init__(self, rooms: _Rooms, each: NDArray[np.uintp]) -> None:
        self._held = False
        self.rooms, self.each, self.sorted = rooms, each, np.sort(each)
        self.addresses, self.ordered = _address(each), _address(self.sorted)
        rooms.library.hold(self.addresses, len(each))
        self._held = True  # a signal may have raised before, and what is not counted must not be let go

    def __len__(self) -> int:
        return len(self.each)

    def __del__(self) -> None:
        if self._held:
            unused = self.rooms.library.let_go(self.addresses, len(self.each))
            self.rooms.give_back(self.each[:unused].tolist())


@dataclass(frozen=True, eq=False, slots=True)
class State:
    """Samples between two stages."""

    done: int
    """Stages that have run."""
    memories: _Memories
    """Other states may hold some of them as well."""

    @property
    def samples(self) -> int:
        """N."""
        return len(self.memories)


class NativeStages:
    """The stages of one network.

    Args:
        folder: with the library, its weights and what must be known of them.
        threads: that compute one call.
    """

    def __init__(self, folder: Path, *, threads: int) -> None:
        facts = json.loads((folder / _FACTS).read_text())
        self._num_exits, self._classes = facts["exits"], facts["classes"]
        self._image_shape = tuple(facts["image"])
        self._scratch = facts["scratch"]
        self._weights = _read_weights(folder / _WEIGHTS)
        self._weights_at = self._weights.ctypes.data
        self._library = _open(folder / _LIBRARY)
        self._workers = ctypes.c_void_p(self._library.open_pool(threads))
        if not self._workers:
            raise MemoryError(f"no memory for {threads} threads")
        # Not at exit: threads may still be computing, and the process ends with all it has anyway.
        weakref.finalize(self, self._library.close_pool, self._workers).atexit = False
        self._threads = threads
        self._rooms = _Rooms(self._library, facts["memory"])
        self._never = np.zeros(1, np.int32)
        """What a run looks at that nobody cancels, …"""
        self._never_at: int = self._never.ctypes.data
        """… and where it is."""
        self._idle: deque[tuple[Floats, int]] = deque(maxlen=_KEPT_SCRATCH)
        """Scratch memories, and where they are."""

    @property
    def num_exits(self) -> int:
        """K."""
        return int(self._num_exits)

    def start(self, images: Floats) -> State:
        """State before stage 0, for normalised images (N, C, H, W), which are copied.

        Raises:
            ConfigError: images of another size.
        """
        if images.shape[1:] != self._image_shape:
            raise ConfigError(
                f"images of {' x '.join(map(str, images.shape[1:]))}: runtime 'native' was made for "
                f"{' x '.join(map(str, self._image_shape))}; resize them, or take 'eager'"
            )
        memories = self._rooms.take(len(images))
        given = np.ascontiguousarray(images, np.float32)
        self._library.begin(given.ctypes.data, memories.addresses, len(given))
        return State(0, memories)

    def step(self, k: int, state: State) -> tuple[State, Floats]:
        """Run stage k; returns the next state and the logits (N, C) of exit k.

        Raises:
            ConfigError: a state that is not behind k stages, or of another network.
        """
        done = self._step(k, state, self._never_at)
        assert done is not None
        return done

    def step_unless(self, cancelled: Cancellation, k: int, state: State) -> tuple[State, Floats] | None:
        """:meth:`step`, or None when ``cancelled`` was set before the stage was done."""
        stop = np.zeros(1, np.int32)
        cancelled.attach(lambda: stop.fill(1))
        return self._step(k, state, stop.ctypes.data)

    def take(self, state: State, rows: NDArray[np.int64]) -> State:
        """The state of the samples ``rows`` (M,), in that order.

        Raises:
            ConfigError: a row that is not there, or a state of another network.
        """
        if len(rows) and not (rows.min() >= 0 and rows.max() < state.samples):
            raise ConfigError(
                f"rows {rows.min()} … {rows.max()} of a state of {state.samples}: take rows that are there"
            )
        self._check_own(state)
        return State(state.done, self._distinct(state.memories.each[rows.astype(np.intp, copy=False)]))

    def join(self, states: Sequence[State]) -> State:
        """The state of all samples of several states, one after the other.

        Raises:
            ConfigError: none, states behind different stages, or of another network.
        """
        if len({state.done for state in states}) != 1:
            behind = ", ".join(str(state.done) for state in states) or "no"
            raise ConfigError(f"states behind {behind} stages: join states that are behind the same stage")
        for state in states:
            self._check_own(state)
        return State(states[0].done, self._distinct(np.concatenate([state.memories.each for state in states])))

    def direct(self, k: int, images: Floats) -> Floats:
        """Logits (N, C) of exit k, skipping earlier exits and whatever only they need."""
        check_exit(k, self.num_exits)
        logits = self._run(self.num_exits + k, self.start(images), self._never_at)
        assert logits is not None
        return logits

    def _step(self, k: int, state: State, stop: int) -> tuple[State, Floats] | None:
        if k != state.done:
            raise ConfigError(f"stage {k} of a state behind {state.done} stages: run stage {state.done} next")
        logits = self._run(k, state, stop)
        return None if logits is None else (State(k + 1, state.memories), logits)

    def _run(self, which: int, state: State, stop: int) -> Floats | None:
        self._check_own(state)
        memories = state.memories
        logits = np.empty((len(memories), self._classes), np.float32)
        try:
            scratch, scratch_at = self._idle.pop()
        except IndexError:
            scratch = _zeros(self._threads * self._scratch)
            scratch_at = scratch.ctypes.data
        stopped = self._library.run(
            self._workers,
            which,
            memories.addresses,
            memories.ordered,
            scratch_at,
            _address(logits),
            self._weights_at,
            len(memories),
            stop,
        )
        self._idle.append((scratch, scratch_at))
        return None if stopped else logits

    def _distinct(self, addresses: NDArray[np.uintp]) -> _Memories:
        """With copies of those that come again: two threads must not compute in one memory."""
        memories = _Memories(self._rooms, addresses)
        if not (memories.sorted[1:] == memories.sorted[:-1]).any():
            return memories
        again = np.ones(len(addresses), np.bool_)
        again[np.unique(addresses, return_index=True)[1]] = False
        copies = self._rooms.take(int(np.count_nonzero(again)))
        for source, copy in zip(addresses[again].tolist(), copies.each.tolist(), strict=True):
            self._library.copy(source, copy)
        distinct = addresses.copy()
        distinct[again] = copies.each
        return _Memories(self._rooms, distinct)

    def _check_own(self, state: State) -> None:
        """Those of other networks are of other sizes, which C would not notice."""
        if state.memories.rooms is not self._rooms:
            raise ConfigError("a state of another network: give stages what they made themselves")


def open_stages(folder: Path, num_exits: int, *, threads: int, precision: Precision) -> NativeStages:
    """The stages of a bundle's folder of ONNX graphs; at the first start on this CPU they are compiled, which is kept.

    Raises:
        MissingExtraError: onnx is not installed, and they have not been compiled before.
        ConfigError: no compiler, a CPU without the precision, or a network with something that is not known here.
        ArtifactError: the cache cannot be written.
    """
    if (refusal := why_not(precision)) is not None:
        raise refusal
    of_cpu = vectors(precision)
    sources = [folder / f"stage-{k}.onnx" for k in range(num_exits)]
    belongs_to = {
        "graphs": digest_of((*sources, folder / graph.WEIGHTS)),
        "code": _digest_of_code(),
        "precision": precision,
        "libc": platform.libc_ver(),
        "cpu": [cpu_name(), sorted(cpu_features())],
    }
    ready = cached("native", belongs_to, lambda unfinished: _make(sources, of_cpu, unfinished))
    try:
        return NativeStages(ready, threads=threads)
    except OSError as error:
        raise ArtifactError(
            f"{ready}: cannot be opened ({reason(error)}); remove this folder, and it is made anew, or name a folder that "
            "programs may be run from in the environment variable OFFRAMP_CACHE"
        ) from None


def _digest_of_code() -> str:
    """Of this package, which is what a library is made by."""
    return digest_of(path for path in sorted(Path(__file__).parent.iterdir()) if path.suffix in (".py", ".c"))


def _make(sources: Sequence[Path], of_cpu: Vectors, folder: Path) -> None:
    if find_spec("onnx") is None:
        raise MissingExtraError(
            "runtime 'native' reads its graphs with onnx, which is not installed; "
            "install it: pip install 'offramp-runtime[onnx]'"
        )
    build(read_network(graph.join_stages([graph.read(path) for path in sources]), len(sources)), of_cpu, folder)


def build(network: Network, of_cpu: Vectors, folder: Path) -> None:
    """Fill a folder with what :class:`NativeStages` opens.

    Raises:
        ConfigError: the network cannot be laid out, or the compiler fails.
        ArtifactError: the folder cannot be written.
    """
    layout = place(network, of_cpu)
    code = write_code(network, layout, of_cpu)
    facts = {
        "exits": network.num_exits,
        "classes": network.shapes[graph.logits_name(0)][0],
        "image": network.shapes[graph.IMAGES],
        "scratch": layout.scratch,
        "memory": layout.memory,
    }
    try:
        compile_library(code.text, folder / _LIBRARY)
        code.weights.tofile(folder / _WEIGHTS)
        (folder / _FACTS).write_text(json.dumps(facts))
    except OSError as error:
        raise ArtifactError(
            f"{folder}: cannot be written ({error.strerror or error}); make room, or name another folder in OFFRAMP_CACHE"
        ) from error


def _zeros(*shape: int) -> Floats:
    zeros = aligned(shape, np.dtype(np.float32))
    zeros.fill(0)
    return zeros


def _address(array: NDArray[Any]) -> int:
    """Of one that may be written: faster than what NumPy has, which is felt by stages of 30 µs."""
    return ctypes.addressof(ctypes.c_char.from_buffer(array.data)) if array.size else 0


def _read_weights(path: Path) -> Floats:
    stored = np.fromfile(path, np.float32)
    weights = aligned(stored.shape, stored.dtype)
    weights[:] = stored
    return weights


def _open(path: Path) -> ctypes.CDLL:
    """The library, with what its functions take."""
    library, address, count = ctypes.CDLL(str(path)), ctypes.c_void_p, ctypes.c_long
    library.open_pool.argtypes, library.open_pool.restype = [count], address
    library.close_pool.argtypes, library.close_pool.restype = [address], None
    library.open_memory.argtypes, library.open_memory.restype = [address], None
    library.hold.argtypes, library.hold.restype = [address, count], None
    library.let_go.argtypes, library.let_go.restype = [address, count], count
    library.copy.argtypes, library.copy.restype = [address, address], None
    library.run.argtypes = [address, count, address, address, address, address, address, count, address]
    library.begin.argtypes, library.begin.restype = [address, address, count], None
    return library
