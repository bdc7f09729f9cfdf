"""States of stages that are graphs, and the memory these read and write.

A run of few images has a lane: all the memory its stages write to, bound to them once. What a runtime of many small calls
loses, it loses between them, and a step on a lane is one call. Batches of many images would need too much memory at once;
their tensors are lent one by one and go back after their last reader.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from offramp_runtime.errors import ConfigError
from offramp_runtime.graph import IMAGES
from offramp_runtime.pool import Block, Lent, Pool, Tensors

LANE_BYTES = 2**24
"""A lane is not larger."""
_FREE_LANES = 8
"""Kept for the next runs, of whatever numbers of images."""

Form: TypeAlias = tuple[tuple[int, ...], str]
"""Shape of a tensor without its first axis, which counts samples, and its type."""


class Graph(Protocol):
    """What a runtime makes of the graph of one stage."""

    @property
    def reads(self) -> Sequence[str]:
        """Names of its inputs."""
        ...

    @property
    def gives(self) -> Sequence[str]:
        """Names of its outputs, the logits first."""
        ...

    @property
    def forms(self) -> Sequence[Form]:
        """Of its outputs; empty as long as that is not known."""
        ...

    def run(self, read: Sequence[Lent], samples: int, pool: Pool, options: Any) -> list[Lent]:
        """The outputs, in memory of the pool."""
        ...

    def takes(self, samples: int) -> bool:
        """Whether it can be bound to memory of so many."""
        ...

    def bind(self, read: Sequence[Block], written: Sequence[Block]) -> Callable[[Any], object]:
        """What runs it on this memory, given options."""
        ...


class Lane:
    """Memory for one run of all stages."""

    __slots__ = ("blocks", "lock", "runs", "samples")

    def __init__(self, samples: int, blocks: Mapping[str, Block], runs: Sequence[Callable[[Any], object]]) -> None:
        self.samples = samples
        self.blocks = blocks
        self.runs = runs
        self.lock = threading.Lock()
        """Stages of one lane run one at a time: stepping a state again writes what is there already, bit by bit."""


class _Held:
    """A lane that is free again when no state refers to it any more."""

    __slots__ = ("free", "lane")

    def __init__(self, lane: Lane, free: deque[Lane]) -> None:
        self.lane, self.free = lane, free

    def __del__(self) -> None:
        self.free.append(self.lane)
        while len(self.free) > _FREE_LANES:
            with suppress(IndexError):  # another thread was faster
                self.free.popleft()


@dataclass(frozen=True, eq=False, slots=True)
class State:
    """Samples between two stages."""

    done: int
    """Stages that have run."""
    samples: int
    held: _Held | None
    """Their lane, if they have one, …"""
    tensors: Tensors
    """… or the tensors later stages read, by name."""


class GraphStages:
    """Stages that are graphs with named tensors between them.

    Args:
        graphs: of the stages, (K,).
        image_shape: of one normalised image.
        wrap: what the runtime makes of an array without copying it.
    """

    def __init__(
        self, graphs: Sequence[Graph], image_shape: tuple[int, ...], wrap: Callable[[NDArray[Any]], Any]
    ) -> None:
        self._graphs = graphs
        self._image_shape = image_shape
        self._pool = Pool(wrap)
        self._free: deque[Lane] = deque()
        # What there is before each stage and a later one still reads: everything else is let go of after its last reader.
        made, self._alive = {IMAGES}, []
        for k in range(len(graphs) + 1):
            self._alive.append(made.intersection(name for later in graphs[k:] for name in later.reads))
            made |= set(graphs[k].gives) if k < len(graphs) else set()

    @property
    def num_exits(self) -> int:
        """K."""
        return len(self._graphs)

    def start(self, images: NDArray[np.float32]) -> State:
        """State before stage 0, for normalised images (N, C, H, W), which are copied."""
        held = self._lane(len(images)) if images.shape[1:] == self._image_shape else None
        if held is None:
            return State(0, len(images), None, {IMAGES: self._own(images)})
        np.copyto(held.lane.blocks[IMAGES].array, images)
        return State(0, len(images), held, {})

    def step(self, k: int, state: State) -> tuple[State, NDArray[np.float32]]:
        """Run stage k; returns the next state and the logits (N, C) of exit k."""
        return self._step(k, state, None)

    def take(self, state: State, rows: NDArray[np.int64]) -> State:
        """The state of the samples ``rows`` (M,), in that order."""
        sources = self.arrays(state)
        taken = self._room(state.done, len(rows), sources)
        with _locked(state):
            for name, out in self.arrays(taken).items():
                np.take(sources[name], rows, axis=0, out=out, mode="clip")
        return taken

    def join(self, states: Sequence[State]) -> State:
        """The state of all samples of several states, one after the other."""
        whole = self._room(states[0].done, sum(state.samples for state in states), self.arrays(states[0]))
        first = 0
        for state in states:
            rows = slice(first, first := first + state.samples)
            with _locked(state):
                for name, source in self.arrays(state).items():
                    np.copyto(self.arrays(whole)[name][rows], source)
        return whole

    def arrays(self, state: State) -> dict[str, NDArray[Any]]:
        """What later stages read of it, by name: memory that is written again once the state is gone."""
        if state.held is None:
            return {name: lent.array for name, lent in state.tensors.items()}
        blocks = state.held.lane.blocks
        return {name: blocks[name].array for name in self._alive[state.done]}

    def _step(self, k: int, state: State, options: Any) -> tuple[State, NDArray[np.float32]]:
        graph, held = self._graphs[k], state.held
        if k != state.done:
            raise ConfigError(f"stage {k} of a state behind {state.done} stages: run stage {state.done} next")
        if held is not None:
            lane = held.lane
            with lane.lock:
                lane.runs[k](options)
                return State(k + 1, state.samples, held, {}), np.array(lane.blocks[graph.gives[0]].array, np.float32)
        logits, *made = graph.run([state.tensors[name] for name in graph.reads], state.samples, self._pool, options)
        tensors = {**state.tensors, **dict(zip(graph.gives[1:], made, strict=True))}
        kept = {name: lent for name, lent in tensors.items() if name in self._alive[k + 1]}
        return State(k + 1, state.samples, None, kept), np.array(logits.array, np.float32)

    def _own(self, images: NDArray[np.float32]) -> Lent:
        lent = self._pool.lend(images.shape, "<f4")
        np.copyto(lent.array, images)
        return lent

    def _room(self, done: int, samples: int, like: Mapping[str, NDArray[Any]]) -> State:
        """A state of so many samples, with whatever values."""
        held = self._lane(samples)
        if held is not None:
            return State(done, samples, held, {})
        lent = {name: self._pool.lend((samples, *part.shape[1:]), part.dtype.str) for name, part in like.items()}
        return State(done, samples, None, lent)

    def _lane(self, samples: int) -> _Held | None:
        for lane in tuple(self._free):
            if lane.samples == samples:
                with suppress(ValueError):  # another thread was faster
                    self._free.remove(lane)
                    return _Held(lane, self._free)
        made = self._new_lane(samples)
        return None if made is None else _Held(made, self._free)

    def _new_lane(self, samples: int) -> Lane | None:
        forms: dict[str, Form] = {IMAGES: (self._image_shape, "<f4")}
        for graph in self._graphs:
            if not graph.forms or not graph.takes(samples):
                return None
            forms |= zip(graph.gives, graph.forms, strict=True)
        nbytes = samples * sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in forms.values())
        if not 0 < nbytes <= LANE_BYTES:
            return None
        blocks = {name: self._pool.new((samples, *shape), kind) for name, (shape, kind) in forms.items()}
        runs = [
            graph.bind([blocks[name] for name in graph.reads], [blocks[name] for name in graph.gives])
            for graph in self._graphs
        ]
        return Lane(samples, blocks, runs)


def _locked(state: State) -> AbstractContextManager[object]:
    """Nobody writes again what it holds meanwhile."""
    return nullcontext() if state.held is None else state.held.lane.lock
