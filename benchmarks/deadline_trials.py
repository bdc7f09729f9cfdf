"""Deadlines really met or missed: answers before them, interleaved with a control that only reads the clock."""

import gc
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from offramp.classifier import Classifier
from offramp.engine.anytime import AnytimePredictor
from offramp.errors import BudgetError

Array = NDArray[np.float64]
KINDS = ("uniform", "exponential")
LONGEST = 1.25
"""Uniform deadlines reach so many times the median run of the whole network beyond exit 0."""
EVERY = 8
"""Trials between two looks at what the network takes whole and direct."""
LATE_MS = 0.05
"""A miss is later than this; the loop of the control needs a moment to see that the deadline has passed, too."""
SETTLE_S = 0.002
"""Before each trial and each control, so that both begin alike: a run which was cancelled has let go of its stage, and the
scheduler owes the one as much time as the other."""
NOTHING = -1
"""Exit where there was no answer."""


@dataclass(frozen=True)
class Trials:
    """One entry per deadline, (N,), unless said otherwise; times in milliseconds from the start of the trial."""

    deadline: Array
    kind: Array
    """Index into :data:`KINDS`."""
    image: Array
    predicted: Array
    """When ``predict`` was back; NaN where it refused the deadline as too short."""
    exit: Array
    """Of its answer; :data:`NOTHING` where it refused."""
    interrupted: Array
    """When ``wait`` was back, of a run that knew no deadline; NaN for uniform ones."""
    seen: Array
    """Exit of what ``wait`` then gave; :data:`NOTHING` where no exit had answered."""
    latest_ns: Array
    """What the call of ``latest`` took after that."""
    control: Array
    """When a loop that reads the clock saw the deadline pass."""
    piece_ms: Array
    """(M, K + 1): ``direct`` to every exit, then the whole network staged to its end."""
    collected: Array
    """(G, 2), garbage collections in the meantime: generation and milliseconds."""

    def save(self, path: Path) -> None:
        """For :meth:`load`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """What :meth:`save` wrote."""
        with np.load(path) as stored:
            return cls(**stored)


def draw(count: int, first_ms: float, whole_ms: float) -> tuple[Array, Array]:
    """Deadlines and their kinds, half and half, mixed.

    Uniform ones lie between what exit 0 needs and :data:`LONGEST` times the whole network more. Poisson interrupts
    come after exponential times; of those, what lies beyond exit 0 is exponential again, with mean half the whole network.

    Args:
        count: how many.
        first_ms: what 99 % of the runs of exit 0 stay below; earlier deadlines cannot be promised.
        whole_ms: what the whole network usually takes.
    """
    draws = np.random.default_rng(0)
    kind = draws.permutation(np.arange(count) % 2).astype(float)
    uniform = draws.uniform(first_ms, first_ms + LONGEST * whole_ms, count)
    exponential = first_ms + draws.exponential(whole_ms / 2, count)
    return np.where(kind == 0, uniform, exponential), kind


def run(model: Classifier, images: NDArray[np.uint8], count: int) -> Trials:
    """So many deadlines, one image each."""
    predictor = model.anytime()
    stages, last = predictor.stage_clock(1), model.net.num_exits
    whole_ms = sum(stages.median_ms(k) for k in range(last + 1))
    deadlines, kinds = draw(count, stages.allow_ms(0) + stages.allow_ms(last), whole_ms)
    rows: list[tuple[float, ...]] = []
    pieces: list[list[float]] = []
    with collections() as collected:
        for trial, (deadline, kind) in enumerate(zip(deadlines.tolist(), kinds.tolist(), strict=True)):
            number = trial % len(images)
            image = images[number : number + 1]
            predicted, found = predicted_before(predictor, image, deadline)
            interrupted = interrupted_at(predictor, image, deadline) if kind == 1 else (np.nan, NOTHING, np.nan)
            rows.append((deadline, kind, number, predicted, found, *interrupted, control(deadline)))
            if trial % EVERY == 0:
                pieces.append(pieces_of(model, image))
    names = [field.name for field in fields(Trials)]
    columns = [*np.array(rows).T, np.array(pieces), np.array(collected).reshape(-1, 2)]
    return Trials(**dict(zip(names, columns, strict=True)))


def predicted_before(
    predictor: AnytimePredictor[Any], image: NDArray[np.uint8], deadline_ms: float
) -> tuple[float, int]:
    """When the answer was there, and its exit."""
    time.sleep(SETTLE_S)
    began = time.perf_counter()
    try:
        answer = predictor.predict(image, deadline_ms)
    except BudgetError:
        return np.nan, NOTHING
    return (time.perf_counter() - began) * 1e3, int(answer.exit_index[0])


def interrupted_at(
    predictor: AnytimePredictor[Any], image: NDArray[np.uint8], deadline_ms: float
) -> tuple[float, int, float]:
    """When an interrupt nobody knew of was served, the exit of the answer, and what asking for the latest took."""
    time.sleep(SETTLE_S)
    began = time.perf_counter()
    with predictor.start(image) as running:
        try:
            found = int(running.wait(deadline_ms).exit_index[0])
        except BudgetError:
            found = NOTHING
        back = time.perf_counter()
        asked = time.perf_counter_ns()
        running.latest()
        took = time.perf_counter_ns() - asked
    return (back - began) * 1e3, found, took


def control(deadline_ms: float) -> float:
    """When a loop that does nothing but read the clock saw the deadline pass."""
    time.sleep(SETTLE_S)
    began = time.perf_counter()
    end = began + deadline_ms / 1e3
    while time.perf_counter() < end:
        pass
    return (time.perf_counter() - began) * 1e3


def pieces_of(model: Classifier, image: NDArray[np.uint8]) -> list[float]:
    """Milliseconds of ``direct`` to every exit and of the whole network."""
    last = model.net.num_exits - 1
    laps = [time.perf_counter()]
    for k in range(last + 1):
        model.predict(image, exit=k)
        laps.append(time.perf_counter())
    for _ in model.stream(image):
        pass
    laps.append(time.perf_counter())
    return (np.diff(laps) * 1e3).tolist()  # type: ignore[no-any-return]


@contextmanager
def collections() -> Iterator[list[tuple[int, float]]]:
    """Generation and milliseconds of every garbage collection while it is open."""
    took: list[tuple[int, float]] = []
    began = 0.0

    def note(phase: str, info: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.perf_counter()
        else:
            took.append((info["generation"], (time.perf_counter() - began) * 1e3))

    gc.callbacks.append(note)
    try:
        yield took
    finally:
        gc.callbacks.remove(note)


@contextmanager
def busy_core() -> Iterator[None]:
    """Another process that never rests."""
    # It ends with this process, even if that is killed.
    code = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10**6): pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def percent(values: NDArray[Any]) -> float:
    """Mean of shares or of yes and no."""
    return 100 * float(values.mean()) if len(values) else float("nan")
