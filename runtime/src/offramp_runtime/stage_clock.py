"""How long each stage takes here and now: learnt once, followed while answers are given."""

import math
import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Collection, Iterator

from offramp_runtime.errors import ConfigError

WINDOW = 256
"""Newest runs of a stage that count."""
UNAVOIDABLE = 0.98
"""What every answer needs is asked for no more confidence than this: without it there is nothing to answer instead."""
PATIENCE = 20
"""Times in a row that what every answer needs is withheld at most before it is tried."""
REST_S = 0.005
"""Between two runs of those that are learnt from."""


class StageClock:
    """Whether a stage is done in the time left, judged by its newest runs; for one number of images.

    A stage fits if a share ``confidence`` of its runs would. Many threads may ask and tell at once.

    A stage that is withheld is not measured either, so a moment of noise would keep it out for good. Therefore, when it
    was withheld 1 / (1 - confidence) times in a row although it usually fits, it is tried, and half of the runs that do
    not fit are forgotten. Were all tries in vain, no more would be late than the confidence allows.

    What is unavoidable is judged with the confidence :data:`UNAVOIDABLE` at most, and tried after :data:`PATIENCE` times,
    so that a few slow runs do not leave everybody without an answer; tries in vain may make one in twenty late there.

    Args:
        num_stages: K.
        confidence: between 0 and 1.
        unavoidable: stages that every answer needs.
    """

    def __init__(self, num_stages: int, confidence: float = 0.99, unavoidable: Collection[int] = (0,)) -> None:
        self._confidences = [
            min(confidence, UNAVOIDABLE) if k in unavoidable else confidence for k in range(num_stages)
        ]
        self._patience = [round(1 / (1 - share)) for share in self._confidences]
        for k in unavoidable:
            self._patience[k] = min(self._patience[k], PATIENCE)
        self._lock = threading.Lock()
        self._runs = tuple(_Runs() for _ in range(num_stages))
        self._allow_ms = [math.inf] * num_stages
        self._usual_ms = [math.inf] * num_stages
        self._withheld = [0] * num_stages

    def allow_ms(self, k: int) -> float:
        """Milliseconds to allow for stage k; ``inf`` before it has been seen. One lock-free read."""
        return self._allow_ms[k]

    def median_ms(self, k: int) -> float:
        """Milliseconds half of the runs of stage k stayed below; ``inf`` before it has been seen."""
        with self._lock:
            return self._runs[k].quantile(0.5)

    def fits(self, k: int, left_ms: float) -> bool:
        """Whether to start stage k with ``left_ms`` to go."""
        return self._allow_ms[k] <= left_ms or self._try(k, left_ms)

    def saw(self, k: int, ms: float) -> None:
        """Take note of a run of stage k."""
        with self._lock:
            self._runs[k].add(ms)
            self._withheld[k] = 0
            self._allow_ms[k] = self._runs[k].quantile(self._confidences[k])
            # What it takes when nothing disturbs it; never forgotten.
            self._usual_ms[k] = min(self._usual_ms[k], self._runs[k].quantile(0.5))

    def _try(self, k: int, left_ms: float) -> bool:
        with self._lock:
            if self._usual_ms[k] > left_ms:
                return False
            self._withheld[k] += 1
            if self._withheld[k] <= self._patience[k]:
                return False
            self._runs[k].forgive(left_ms)
            self._withheld[k] = 0
            self._allow_ms[k] = self._runs[k].quantile(self._confidences[k])
            return True


def rest() -> None:
    """Wait as a machine does for the next image: its caches cool, its core falls asleep."""
    time.sleep(REST_S)


def check_confidence(confidence: float) -> float:
    """The confidence, if it can be asked for.

    Raises:
        ConfigError: it does not lie between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence {confidence:g}: must lie between 0 and 1, such as 0.99")
    return confidence


class _Runs:
    """The newest milliseconds of one stage, in order of time and of size."""

    def __init__(self) -> None:
        self._newest: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, ms: float) -> None:
        self._newest.append(ms)
        insort(self._sorted, ms)
        if len(self._newest) > WINDOW:
            del self._sorted[bisect_left(self._sorted, self._newest.popleft())]

    def quantile(self, share: float) -> float:
        """What the next run stays below with probability ``share``, if runs come in no particular order.

        That is the ceil(share * (n + 1))-th smallest of n. Fewer than share / (1 - share) runs cannot promise as much:
        then it is the largest.
        """
        count = len(self._sorted)
        return self._sorted[min(count, math.ceil(share * (count + 1))) - 1] if count else math.inf

    def forgive(self, ms: float) -> None:
        """Forget the older half of the runs above ``ms``."""
        above = len(self._sorted) - bisect_right(self._sorted, ms)
        forget = (above + 1) // 2
        kept: deque[float] = deque()
        for run in self._newest:
            if run > ms and forget:
                forget -= 1
            else:
                kept.append(run)
        self._newest, self._sorted = kept, sorted(kept)


def learn(
    run: Callable[[StageClock], Iterator[object]],
    num_stages: int,
    confidence: float,
    seconds: float,
    clock: Callable[[], float],
    unavoidable: Collection[int] = (0,),
    rest: Callable[[], None] = rest,
) -> StageClock:
    """A clock that has seen the stages for about so many seconds, at most :data:`WINDOW` runs of each.

    Before each run is a rest, for deadlines seldom come one right after the other, and after a pause the first stages take
    longer.

    Args:
        run: goes through all stages, pausing after each, and tells the clock it is given.
        num_stages: K.
        confidence: see :class:`StageClock`.
        seconds: after them a run is broken off, once every stage was seen.
        clock: tells seconds.
        unavoidable: see :class:`StageClock`.
        rest: waits before a run.
    """
    end = clock() + seconds
    for _ in run(StageClock(num_stages, confidence)):
        pass  # first runs allocate, compile and fill caches
    warm = StageClock(num_stages, confidence, unavoidable)
    for turn in range(WINDOW):
        rest()
        for _ in run(warm):
            if turn > 0 and clock() >= end:
                return warm
        if clock() >= end:
            break
    return warm
