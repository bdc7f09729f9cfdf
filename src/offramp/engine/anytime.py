"""Answers before a deadline: as deep as the clock allows."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.catalog import lookup
from offramp.data.preprocess import Images, Preprocessing
from offramp.decide.answers import Answer, AnswerRule, Memo
from offramp.engine.anytime_run import AnytimeRun
from offramp.errors import BudgetError
from offramp.measure.latency import settle
from offramp.runtimes import Cancellation, InterruptibleRuntime, Runtime
from offramp_runtime.checks import check_deadline
from offramp_runtime.predictions import Predictions
from offramp_runtime.stage_clock import StageClock, check_confidence, learn, rest

S = TypeVar("S")

LEARNING_S = 1.5
"""Seconds to measure the stages in, when a number of images is met first."""
THREADS = 32
"""Runs that :meth:`AnytimePredictor.start` lets compute at the same time; more wait for one to end."""


class AnytimePredictor(Generic[S]):
    """Answers that are ready in time, each at the deepest exit that is. Any number of threads may use it at once.

    The clock of a deadline runs from decoded pixels on: normalising, every stage, the answer rule and bringing the
    answer to the CPU are paid out of it. Reading and decoding files or PIL images comes before; an array (N, H, W, C)
    is decoded already. So does measuring the stages, once per number of images: when it is first met, or ahead of that
    with :meth:`stage_clock`. It takes less than two seconds, unless running the network twice takes longer. From then on
    every answer is a measurement too, so that stages are given the time they take in the company they run in.

    A stage starts only if its newest runs say that it will be done in time with the confidence asked for. Before exit 0
    there is nothing to answer instead: a deadline is refused only if more than one in fifty of its newest runs would miss
    it (one at all of fewer than 49), and tried now and then all the same, so that a machine that has become quiet is
    noticed.

    What reaches into a call from outside is not in the library's hand: garbage collection in a process with many
    objects (``gc.freeze()`` after loading spares it them), and other Python threads that compute without giving
    up the interpreter lock, which may keep it for ``sys.getswitchinterval()`` each time.

    Args:
        runtime: computes.
        preprocessing: what images go through.
        rule: turns logits into answers; a name is looked up among "this-exit", "running-ensemble" and
            "product-of-experts".
        confidence: share of a stage's newest runs that would have to meet the deadline for it to start.
        device: where the runtime takes its images.
        clock: seconds, for tests.
        rest: between two runs that are learnt from, for tests.

    Raises:
        ConfigError: no such rule, or a confidence that does not lie between 0 and 1.
    """

    def __init__(
        self,
        runtime: Runtime[S],
        preprocessing: Preprocessing,
        rule: AnswerRule | str = "this-exit",
        confidence: float = 0.99,
        device: torch.device | str = "cpu",
        clock: Callable[[], float] = time.perf_counter,
        rest: Callable[[], None] = rest,
    ) -> None:
        self.rule: AnswerRule = lookup("answer rule", rule, "decide", "RULES") if isinstance(rule, str) else rule
        self.confidence = check_confidence(confidence)
        self._runtime = runtime
        # Asking is too slow for every stage.
        self._interruptible = runtime if isinstance(runtime, InterruptibleRuntime) else None
        self._preprocessing = preprocessing
        self._device = torch.device(device)
        self._clock, self._rest = clock, rest
        self._learning = threading.Lock()
        self._stages: dict[int, StageClock] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="offramp-anytime")

    def predict(self, images: Images, deadline_ms: float) -> Predictions:
        """The deepest answer that is ready within ``deadline_ms`` of the pixels being decoded, as an array's are.

        Computes in the calling thread.

        Raises:
            BudgetError: the deadline is too short for exit 0.
            DataError: an image that cannot be read.
        """
        asked = self._clock()
        with torch.inference_mode():
            pixels, stages, began = self._begin(images, deadline_ms, asked)
            *_, (k, answer) = self._answers(pixels, stages, began, deadline_ms)
            return self._hand_over(k, answer, stages)

    @torch.inference_mode()
    def stream(self, images: Images, deadline_ms: float = math.inf) -> Iterator[Predictions]:
        """Yield the answer at exit 0, 1, … until the next would miss the deadline.

        Nothing is done before the first is asked for. Time the consumer spends between two answers counts too.

        Raises:
            BudgetError: the deadline is too short for exit 0.
            DataError: an image that cannot be read.
        """
        pixels, stages, began = self._begin(images, deadline_ms, self._clock())
        for k, answer in self._answers(pixels, stages, began, deadline_ms):
            yield self._hand_over(k, answer, stages)

    def start(self, images: Images) -> AnytimeRun:
        """Begin to answer in another thread, exit after exit, and let the caller say when it is enough.

        Raises:
            DataError: an image that cannot be read.
        """
        pixels = self._preprocessing.decode(images)
        run = AnytimeRun(self._clock)

        @torch.inference_mode()
        def compute() -> None:
            stages = self._stages.get(len(pixels))
            # Waiting for a thread is no part of stage 0, so the clock of the stages starts here.
            for k, answer in self._answers(pixels, stages, self._clock(), math.inf, run.cancelled):
                run.publish(self._hand_over(k, answer, stages))

        self._threads.submit(run.follow, compute)
        return run

    def stage_clock(self, count: int) -> StageClock:
        """How long the stages take for ``count`` images; measured now if it never was."""
        if count not in self._stages:
            with self._learning:
                if count not in self._stages:
                    self._stages[count] = self._learn(count)
        return self._stages[count]

    def _learn(self, count: int) -> StageClock:
        pixels = self._preprocessing.noise(count)

        @torch.inference_mode()
        def run(stages: StageClock) -> Iterator[None]:
            began = self._clock()
            with torch.inference_mode():  # as in predict, where entering it counts
                self._preprocessing.decode(pixels)
            for k, answer in self._answers(pixels, stages, began, math.inf):
                self._hand_over(k, answer, stages)
                yield

        # What comes after the last stage is handing the answer over. Where other threads compute in Python, the lock of the
        # interpreter makes it wait for milliseconds now and then.
        last = self._runtime.num_exits
        return learn(run, last + 1, self.confidence, LEARNING_S, self._clock, unavoidable=(0, last), rest=self._rest)

    def _begin(
        self, images: Images, deadline_ms: float, asked: float
    ) -> tuple[NDArray[np.uint8], StageClock | None, float]:
        """Decoded pixels, the clock of the stages where there is one, and when the deadline began to run.

        Arrays are decoded when they are given: theirs begins when they were ``asked`` for. What comes before stage 0 takes
        0.1 ms where the machine has been doing something else, so it belongs to that stage.
        """
        check_deadline(deadline_ms)
        pixels = self._preprocessing.decode(images)
        learnt = len(pixels) in self._stages
        stages = self.stage_clock(len(pixels)) if deadline_ms < math.inf else self._stages.get(len(pixels))
        began = asked if learnt and isinstance(images, np.ndarray) else self._clock()
        if stages is not None and not self._fits(0, stages, deadline_ms):
            needed = stages.allow_ms(0) + stages.allow_ms(self._runtime.num_exits)
            raise BudgetError(
                f"deadline {deadline_ms:g} ms is too short for exit 0, for which {needed:.3g} ms must be allowed here now; "
                "allow more time, give fewer images per call, or take a smaller network"
            )
        return pixels, stages, began

    def _answers(
        self,
        pixels: NDArray[np.uint8],
        stages: StageClock | None,
        began: float,
        deadline_ms: float,
        cancelled: Cancellation | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """Every exit that fits, with its answer; whether exit 0 does was asked before."""
        state = self._runtime.start(self._preprocessing.normalize(torch.from_numpy(pixels).to(self._device)))
        memo: Memo = ()
        lap = began
        for k in range(self._runtime.num_exits):
            if k > 0 and stages is not None and not self._fits(k, stages, deadline_ms - (lap - began) * 1e3):
                return
            done = self._step(k, state, cancelled)
            if done is None:
                return
            state, logits = done
            answer, memo = self.rule.answer(k, logits, memo)
            settle(self._device)
            if stages is not None:
                stages.saw(k, (self._clock() - lap) * 1e3)
            yield k, answer
            lap = self._clock()

    def _fits(self, k: int, stages: StageClock, left_ms: float) -> bool:
        return left_ms == math.inf or stages.fits(k, left_ms - stages.allow_ms(self._runtime.num_exits))

    def _hand_over(self, k: int, answer: Answer, stages: StageClock | None) -> Predictions:
        lap = self._clock()
        predictions = Predictions(
            answer.label.cpu().numpy(),
            answer.confidence.cpu().numpy(),
            np.full(len(answer.probabilities), k),
            answer.logits.cpu().numpy(),
        )
        if stages is not None:
            stages.saw(self._runtime.num_exits, (self._clock() - lap) * 1e3)
        return predictions

    def _step(self, k: int, state: S, cancelled: Cancellation | None) -> tuple[S, Tensor] | None:
        if cancelled is None:
            return self._runtime.step(k, state)
        if cancelled.is_set:
            return None
        if self._interruptible is not None:
            return self._interruptible.step_unless(cancelled, k, state)
        return self._runtime.step(k, state)
