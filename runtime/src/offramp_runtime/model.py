"""What :func:`offramp_runtime.load` returns: from images to answers, without PyTorch."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp_runtime.budgeted import always, run_budgeted
from offramp_runtime.bundle import Bundle
from offramp_runtime.checks import check_deadline, check_plan, check_ways
from offramp_runtime.costs import Costs, parse_budget
from offramp_runtime.errors import BudgetError
from offramp_runtime.latency_table import LatencyTable, measure_latencies
from offramp_runtime.plan import ExitPlan
from offramp_runtime.predictions import Predictions
from offramp_runtime.preprocess import Images
from offramp_runtime.stage_clock import StageClock, learn
from offramp_runtime.stage_table import Setting
from offramp_runtime.stages import Stages

MEASURING_S = 15.0
"""Seconds to measure a latency table in, when a budget in milliseconds first needs one."""
LEARNING_S = 1.0
"""Seconds to measure the stages in, when a number of images is met first under a deadline."""


class Model:
    """An exported network with all that is needed to answer; it may be used by many threads.

    Args:
        bundle: where it came from.
        stages: what computes.
        runtime: its name.
        place: of what measured milliseconds belong to.
        clock: seconds, for tests.
    """

    batch_size = 256
    """Images per step when many are given."""

    def __init__(
        self,
        bundle: Bundle,
        stages: Stages[Any],
        runtime: str,
        place: str,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.manifest = bundle.manifest
        self.calibration = bundle.calibration
        self.stages = stages
        self._place = place
        self._clock = clock
        self._clocks: dict[int, StageClock] = {}
        self._measuring = threading.Lock()
        manifest = bundle.manifest
        self._setting = Setting(place, runtime, manifest.precision, manifest.identity)
        stored = manifest.latency
        self._latencies = stored if stored is not None and stored.setting == self._setting else None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, (C,)."""
        return self.manifest.classes

    @property
    def costs(self) -> Costs:
        """MACs of one image up to each exit."""
        return self.manifest.costs

    def predict(
        self,
        images: Images,
        *,
        budget: float | str | None = None,
        deadline_ms: float | None = None,
        exit: int | None = None,
        plan: ExitPlan | str | Path | None = None,
        report: Callable[[int], None] | None = None,
    ) -> Predictions:
        """Answers for one or many images; by default at the last exit.

        Args:
            images: paths or PIL images (both need Pillow), or a uint8 array (N, H, W, C).
            budget: mean cost per image: a number of MACs, or text such as ``"30MMAC"`` or ``"2ms"``.
            deadline_ms: of this one call, from decoded pixels to answers; an array's are decoded when it is given. The first
                call with a new number of images measures the stages before the clock starts.
            exit: answer everything at this exit, going straight to it.
            plan: a solved plan, or the file of one.
            report: told how many images are answered after each batch (not under a deadline).

        Raises:
            ConfigError: more than one of the four, or no such exit.
            BudgetError: a budget or deadline below exit 0, or a budget without a calibration.
            ArtifactError: a plan made for another model or machine.
            DataError: an image that cannot be read.
        """
        ways = {"budget": budget, "deadline_ms": deadline_ms, "exit": exit, "plan": plan}
        check_ways(ways, self.manifest.num_exits)
        if deadline_ms is not None:
            *_, answer = self.stream(images, deadline_ms)
            return answer
        pixels = self.manifest.preprocessing.decode(images)
        if budget is not None:
            plan = self.plan(budget, len(pixels))
        if isinstance(plan, str | Path):
            plan = ExitPlan.load(Path(plan))
        if plan is None:
            k = self.manifest.num_exits - 1 if exit is None else exit
            return self._batches(pixels, lambda batch: (self.stages.direct(k, batch), np.full(len(batch), k)), report)
        check_plan(plan, self.manifest.identity, self._place)
        policy = plan.policy
        regroup = always if self._latencies is None else self._latencies.pays
        return self._batches(pixels, lambda batch: run_budgeted(self.stages, batch, policy, regroup), report)

    def stream(self, images: Images, deadline_ms: float = math.inf) -> Iterator[Predictions]:
        """Yield the answer at exit 0, 1, … until the next would miss the deadline.

        Raises:
            BudgetError: the deadline is too short for exit 0.
            DataError: an image that cannot be read.
        """
        check_deadline(deadline_ms)
        asked = self._clock()
        pixels = self.manifest.preprocessing.decode(images)
        learnt = len(pixels) in self._clocks
        stages = self._stage_clock(len(pixels)) if deadline_ms < math.inf else None
        # Arrays are decoded when they are given. After a pause it takes a while to find out that they are.
        began = asked if learnt and isinstance(images, np.ndarray) else self._clock()
        if stages is not None and not stages.fits(0, deadline_ms):
            raise BudgetError(
                f"deadline {deadline_ms:g} ms is too short for exit 0, for which {stages.allow_ms(0):.3g} ms must be allowed "
                "here; allow more time, give fewer images per call, or take a smaller network"
            )
        yield from self._answers(pixels, stages, began, deadline_ms)

    def plan(self, budget: float | str, batch: int | None = None) -> ExitPlan:
        """The plan for a mean cost per image, solved from the calibration.

        Args:
            budget: a number of MACs, or text with a unit. Milliseconds want :meth:`latencies` and include what batches
                cost that shrink as images leave.
            batch: images given at once, where that matters (ms); by default one full batch.

        Raises:
            BudgetError: below exit 0, no calibration, or a unit that is neither.
        """
        if self.calibration is None:
            raise BudgetError(
                "this bundle has no calibration to solve a budget from; calibrate the model and export it again"
            )
        value, unit = parse_budget(budget)
        if unit in (None, "MAC"):
            return self.calibration.solve(value, self.costs)
        if unit != "ms":
            raise BudgetError(f"budget '{budget}': a bundle measures ms and knows MACs; give one of these")
        pricing = self.latencies().pricing(batch or self.batch_size, self.batch_size)
        return replace(self.calibration.solve(value, pricing), machine=self._place)

    def latencies(self, seconds: float = MEASURING_S) -> LatencyTable:
        """Milliseconds of the stages by batch size.

        From the manifest, if the bundle was measured on such a machine with so many threads; else measured here, once.

        Args:
            seconds: to measure for at most.
        """
        with self._measuring:  # two at once would slow each other
            if self._latencies is None:
                self._latencies = measure_latencies(
                    self.stages,
                    self._any_input,
                    self._setting,
                    largest=self.batch_size,
                    seconds=seconds,
                    clock=self._clock,
                )
            return self._latencies

    def _any_input(self, count: int) -> NDArray[np.float32]:
        preprocessing = self.manifest.preprocessing
        return preprocessing.network_input(preprocessing.noise(count))

    def _stage_clock(self, count: int) -> StageClock:
        with self._measuring:
            if count not in self._clocks:
                pixels = self.manifest.preprocessing.noise(count)

                def run(stages: StageClock) -> Iterator[Predictions]:
                    began = self._clock()
                    self.manifest.preprocessing.decode(pixels)
                    yield from self._answers(pixels, stages, began, math.inf)

                self._clocks[count] = learn(run, self.manifest.num_exits, 0.99, LEARNING_S, self._clock)
            return self._clocks[count]

    def _answers(
        self, pixels: NDArray[np.uint8], stages: StageClock | None, began: float, deadline_ms: float
    ) -> Iterator[Predictions]:
        state = self.stages.start(self.manifest.preprocessing.network_input(pixels))
        lap = began
        for k in range(self.manifest.num_exits):
            if k > 0 and stages is not None and not stages.fits(k, deadline_ms - (lap - began) * 1e3):
                return
            state, logits = self.stages.step(k, state)
            answer = Predictions.at(logits, np.full(len(logits), k))
            if stages is not None:
                stages.saw(k, (self._clock() - lap) * 1e3)
            yield answer
            lap = self._clock()

    def _batches(
        self,
        pixels: NDArray[np.uint8],
        run: Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.int64]]],
        report: Callable[[int], None] | None,
    ) -> Predictions:
        if not len(pixels):
            return Predictions.none(len(self.classes))
        parts = []
        for first in range(0, len(pixels), self.batch_size):
            batch = self.manifest.preprocessing.network_input(pixels[first : first + self.batch_size])
            parts.append(Predictions.at(*run(batch)))
            if report is not None:
                report(min(first + self.batch_size, len(pixels)))
        return Predictions.join(parts)
