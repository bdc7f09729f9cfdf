"""Milliseconds of every stage by batch size, measured in bounded time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from offramp_runtime.stage_table import Runs, Setting, StageTable

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Batch sizes that are measured, up to the largest asked for."""
_LEAST = 1e-9
"""A clock too coarse to see a step must not make it free."""


@dataclass(frozen=True)
class LatencyTable(StageTable):
    """Milliseconds of every stage, and of regrouping at every border, by batch size."""

    unit: ClassVar[Literal["ms", "J"]] = "ms"
    kind: ClassVar[str] = "offramp-latency-table"

    def ms(self, k: int, count: float, q: float = 0.5) -> float:
        """Milliseconds stage k stays below in a share ``q`` of its runs, for a batch of ``count`` images."""
        return self.stage(k, count, q)

    def expected_ms(
        self, shares: Sequence[float], images: int, batch: int | None = None, queued: bool = False
    ) -> float:
        """Milliseconds of one of ``images`` given at once, in the mean, when these shares (K,) leave at the exits."""
        return self.expected(shares, images, batch or images, queued)


def _all_rows(batch: Any) -> Any:
    return np.arange(len(batch))


def _settled(logits: Any) -> None:
    del logits


def measure_latencies(
    stages: Any,
    images: Callable[[int], Any],
    setting: Setting,
    *,
    largest: int = SIZES[-1],
    seconds: float = 15.0,
    runs: int = 5,
    clock: Callable[[], float] = time.perf_counter,
    rows: Callable[[Any], Any] = _all_rows,
    settle: Callable[[Any], None] = _settled,
) -> LatencyTable:
    """Measure a table; sizes that no longer fit into the time are left out, and its note says so.

    Args:
        stages: what to time, for arrays or tensors.
        images: gives that many normalised images (N, C, H, W); its time and that of ``start`` count to the first stage.
        setting: what the figures will belong to.
        largest: batch size to measure up to.
        seconds: to spend at most, but for one pass over a single image.
        runs: of each size, one more before them that is not counted; fewer, but at least two, where time is short.
        clock: seconds, for tests.
        rows: the indices of all rows of a batch, as ``take`` wants them.
        settle: waits until logits are there.
    """
    sweep = Sweep(stages, images, lambda: clock() * 1e3, seconds, clock, rows, settle)
    sweep.over(SIZES, largest, runs)
    return LatencyTable(setting, *sweep.columns(), note=sweep.note)


@dataclass
class _Laps:
    """One pass through all stages."""

    stages: list[float] = field(default_factory=list)
    takes: list[float] = field(default_factory=list)
    joins: list[float] = field(default_factory=list)


class Sweep:
    """Passes over rising batch sizes, until they are done or the time is up.

    Args:
        stages: what to measure, for arrays or tensors.
        images: gives that many normalised images.
        read: what has been spent so far, in any unit.
        seconds: within which all passes begin and, should they take in proportion to the batch size, end.
        clock: seconds.
        rows: the indices of all rows of a batch, as ``take`` wants them.
        settle: waits until logits are there.
    """

    def __init__(
        self,
        stages: Any,
        images: Callable[[int], Any],
        read: Callable[[], float],
        seconds: float,
        clock: Callable[[], float],
        rows: Callable[[Any], Any],
        settle: Callable[[Any], None],
    ) -> None:
        self._stages, self._images, self._read, self._clock = stages, images, read, clock
        self._rows, self._settle = rows, settle
        self._seconds, self._end = seconds, clock() + seconds
        self._pass_s = 0.0
        self._runs: dict[int, list[_Laps]] = {}
        self.note = ""
        """What was left out."""

    def over(self, sizes: Sequence[int], largest: int, runs: int, run_s: float = 0.0) -> None:
        """Measure those of ``sizes`` below ``largest``, and that one.

        Args:
            sizes: rising.
            largest: batch size to end with.
            runs: of each size, one more before them that is not counted; fewer, but at least two, where time is short.
            run_s: for counters that only move every now and then: a run is the mean over passes for so many seconds.
        """
        for size in (*(size for size in sizes if size < largest), largest):
            done = max(self._runs, default=0)
            if done and self._clock() + 3 * self._pass_s * size / done > self._end:
                self.note = (
                    f"batches of {size} and more would not fit into {self._seconds:g} s; in proportion to {done}"
                )
                return
            warm, kept = self._measure(size, runs, run_s)
            if not kept and done:  # its first pass may have prepared code for that size, which took the time
                self.note = f"batches of {size} and more did not fit into {self._seconds:g} s; in proportion to {done}"
                return
            self._runs[size] = kept or [warm]

    def _measure(self, size: int, runs: int, run_s: float) -> tuple[_Laps, list[_Laps]]:
        kept: list[_Laps] = []
        warm = self._one(size)
        while len(kept) < runs and self._clock() + self._pass_s * (len(kept) > 1) <= self._end:
            began, laps = self._clock(), [self._one(size)]
            while self._clock() - began < run_s:
                laps.append(self._one(size))
            kept.append(_mean(laps))
        return warm, kept

    def columns(self) -> tuple[tuple[int, ...], Runs, Runs, Runs]:
        """Sizes, stages, takes and joins of a table."""
        every = list(self._runs.values())

        def runs(name: str) -> Runs:
            count = len(getattr(every[0][0], name))
            return tuple(
                tuple(tuple(max(getattr(one, name)[k], _LEAST) for one in laps) for laps in every) for k in range(count)
            )

        return tuple(self._runs), runs("stages"), runs("takes"), runs("joins")

    def _one(self, size: int) -> _Laps:
        began, laps = self._clock(), _Laps()
        last = self._stages.num_exits - 1
        mark = self._read()
        batch = self._images(size)
        rows = self._rows(batch)
        state = self._stages.start(batch)
        for k in range(last + 1):
            state, logits = self._stages.step(k, state)
            self._settle(logits)
            marks = [mark, self._read()]
            if k < last:
                self._stages.take(state, rows)
                self._settle(logits)
                marks.append(self._read())
                halves = [self._stages.take(state, half) for half in (rows[::2], rows[1::2]) if len(half)]
                self._settle(logits)
                marks.append(self._read())
                self._stages.join(halves)
                self._settle(logits)
                marks.append(self._read())
                laps.takes.append(marks[2] - marks[1])
                laps.joins.append(marks[4] - marks[3])
            laps.stages.append(marks[1] - marks[0])
            mark = self._read()
        self._pass_s = self._clock() - began
        return laps


def _mean(laps: Sequence[_Laps]) -> _Laps:
    def mean(name: str) -> list[float]:
        return [sum(values) / len(laps) for values in zip(*(getattr(one, name) for one in laps), strict=True)]

    return _Laps(mean("stages"), mean("takes"), mean("joins"))
