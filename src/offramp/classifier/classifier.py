"""The classifier: one object from images to answers under a budget."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.classifier.checks import check_classes, check_parts, check_plan, check_ways
from offramp.classifier.identity import DigestCache, Storage, identity_of, stored_form
from offramp.costs import Costs, parse_budget
from offramp.data.preprocess import Images, Preprocessing
from offramp.data.source import Samples, Source
from offramp.decide.answers import ThisExit
from offramp.decide.calibration import Calibration
from offramp.decide.plan import ExitPlan
from offramp.engine.anytime import run_until
from offramp.engine.budgeted import run_budgeted
from offramp.engine.collect import BATCH, collect, collect_scores
from offramp.engine.predictions import Predictions
from offramp.errors import ArtifactError, BudgetError, DataError
from offramp.measure.latency import StageTimes, time_stages
from offramp.measure.machine import fingerprint
from offramp.measure.macs import staged_macs
from offramp.nets.base import MultiExitNet


class Classifier:
    """A network with all that is needed to answer.

    Args:
        net: in eval mode from now on.
        classes: class names, (C,).
        preprocessing: what images go through; without it ``net`` works and :meth:`predict` refuses.
        calibration: scores of held-out images; without them ``budget`` is refused.
        storage: how :func:`offramp.classifier.folder.save` keeps the weights; all figures belong to that form.
        about: plain values that travel with the model (training, hold-out, origin).

    Raises:
        ConfigError: class names or image channels do not fit the network.
        ArtifactError: the calibration belongs to other weights.
    """

    batch_size = 256
    """Images per step when many are given. Large, since batches shrink as images leave; lower it where memory is short."""

    def __init__(
        self,
        net: MultiExitNet,
        classes: tuple[str, ...],
        preprocessing: Preprocessing | None,
        *,
        calibration: Calibration | None = None,
        storage: Storage = "fp32",
        about: dict[str, Any] | None = None,
    ) -> None:
        check_parts(net, classes, preprocessing)
        self.net = net.eval()
        self.classes = classes
        self.preprocessing = preprocessing
        self.storage: Storage = storage
        self.about = about or {}
        self._times: dict[tuple[int, str], StageTimes] = {}
        self._digests = DigestCache()
        if storage == "fp16":  # what is answered from now on is what will be stored
            net.load_state_dict(stored_form(net.state_dict(), storage))
        self.calibration = calibration
        if calibration is not None:
            self._need_calibration()

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next(self.net.parameters()).device

    @property
    def identity(self) -> str:
        """SHA-256 of stored weights, precision, answer rule and preprocessing; follows changes of the weights."""
        digest = self._digests.of(self.net.state_dict(), self.storage)
        return identity_of(digest, "fp32", "this-exit", self.preprocessing)

    @cached_property
    def costs(self) -> Costs:
        """MACs of one image up to each exit."""
        return staged_macs(self.net)

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
            images: paths, PIL images or a uint8 array (N, H, W, C).
            budget: mean cost per image: a number in ``costs.unit``, or text such as ``"30MMAC"`` or ``"2ms"``.
            deadline_ms: of this one call, from decoded pixels to answers. The first call with a new number of images
                measures the stages before the clock starts.
            exit: answer everything at this exit, going straight to it.
            plan: a solved plan, or the file of one.
            report: told how many images are answered after each batch (not under a deadline).

        Raises:
            ConfigError: more than one of the four, or no such exit.
            BudgetError: a budget or deadline below exit 0, or a budget without a calibration.
            ArtifactError: a plan made for another model.
            DataError: an image that cannot be read, or a model without preprocessing.
        """
        check_ways({"budget": budget, "deadline_ms": deadline_ms, "exit": exit, "plan": plan}, self.net.num_exits)
        if budget is not None:
            self._need_calibration()
        if isinstance(plan, str | Path):
            plan = ExitPlan.load(Path(plan))
        pixels = self._decode(images)
        if deadline_ms is not None:
            *_, answer = self._until(pixels, deadline_ms)
            return answer
        if budget is not None:
            plan = self.plan(budget, len(pixels))
        if plan is not None:
            check_plan(plan, self.identity, self.device)
            policy = plan.policy
            return self._batches(pixels, lambda batch: Predictions.at(*run_budgeted(self.net, batch, policy)), report)
        k = self.net.num_exits - 1 if exit is None else exit
        return self._batches(pixels, lambda batch: self._direct(k, batch), report)

    def save(self, folder: str | Path) -> None:
        """Write a model folder that :func:`offramp.load` reads."""
        from offramp.classifier.folder import save

        save(self, Path(folder))

    def stream(self, images: Images, deadline_ms: float = float("inf")) -> Iterator[Predictions]:
        """Yield an answer at exit 0, 1, … until the next would miss the deadline.

        Raises:
            BudgetError: the deadline is too short for exit 0.
        """
        yield from self._until(self._decode(images), deadline_ms)

    def plan(self, budget: float | str, batch: int | None = None) -> ExitPlan:
        """The plan for a mean cost per image, solved from the calibration.

        Args:
            budget: a number in ``costs.unit``, or text with a unit. Milliseconds are measured first.
            batch: images given at once, where that matters (ms).
        """
        calibration = self._need_calibration()
        value, unit = parse_budget(budget)
        if unit != "ms":
            return calibration.solve(value, self.costs)
        costs = self.times(min(batch or self.batch_size, self.batch_size)).costs
        return replace(calibration.solve(value, costs), machine=fingerprint(self.device))

    def times(self, batch: int) -> StageTimes:
        """Measured times of the stages for ``batch`` images on this machine; measured once."""
        place = batch, fingerprint(self.device)
        if place not in self._times:
            preprocessing = self._need_preprocessing()
            shape = (batch, preprocessing.image_size, preprocessing.image_size, preprocessing.channels)
            pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            repeats = 20 if batch <= 8 else 5
            self._times[place] = time_stages(self.net, lambda: self._normalize(pixels), repeats)
        return self._times[place]

    def calibrate(self, source: Source, report: Callable[[int], None] | None = None) -> Calibration:
        """Run the source's calibrate split once and keep its scores.

        Raises:
            DataError: the source has other classes.
        """
        self.check_source(source)
        confidence, correct = collect_scores(
            self.net,
            source.split("calibrate"),
            self._need_preprocessing(),
            ThisExit(),
            device=self.device,
            report=report,
        )
        self.calibration = Calibration(
            confidence, correct, source.name, source.holdout.seed, source.calibrate_indices, self.identity
        )
        return self.calibration

    def check_source(self, source: Source) -> None:
        """See :func:`~offramp.classifier.checks.check_classes`."""
        check_classes(self.classes, source)

    def collect(self, samples: Samples, report: Callable[[int], None] | None = None) -> Tensor:
        """Logits (K, N, C) of all exits."""
        batches = samples.batches(BATCH)
        return collect(self.net, batches, self._need_preprocessing(), device=self.device, report=report)

    def _decode(self, images: Images) -> NDArray[np.uint8]:
        return self._need_preprocessing().decode(images)

    def _normalize(self, pixels: NDArray[np.uint8]) -> Tensor:
        return self._need_preprocessing().normalize(torch.from_numpy(pixels).to(self.device))

    def _batches(
        self,
        pixels: NDArray[np.uint8],
        run: Callable[[Tensor], Predictions],
        report: Callable[[int], None] | None,
    ) -> Predictions:
        parts = []
        for first in range(0, max(1, len(pixels)), self.batch_size):
            parts.append(run(self._normalize(pixels[first : first + self.batch_size])))
            if report is not None:
                report(min(first + self.batch_size, len(pixels)))
        return Predictions.join(parts)

    @torch.inference_mode()
    def _direct(self, k: int, batch: Tensor) -> Predictions:
        return Predictions.at(self.net.direct(k, batch), torch.full((len(batch),), k))

    def _until(self, pixels: NDArray[np.uint8], deadline_ms: float) -> Iterator[Predictions]:
        allow = self.times(len(pixels)).quantile(0.95) if deadline_ms < float("inf") else (0.0,) * self.net.num_exits
        for k, logits in run_until(self.net, lambda: self._normalize(pixels), deadline_ms, allow):
            yield Predictions.at(logits, torch.full((len(logits),), k))

    def _need_preprocessing(self) -> Preprocessing:
        if self.preprocessing is None:
            raise DataError(
                "this model does not know what its images went through; import it again with --data, "
                "or with --mean, --std and --size"
            )
        return self.preprocessing

    def _need_calibration(self) -> Calibration:
        if self.calibration is None:
            raise BudgetError(
                "this model has no calibration to solve a budget from; make one with: offramp calibrate MODEL --data NAME"
            )
        if self.calibration.identity != self.identity:
            raise ArtifactError(
                f"the calibration was made for {self.calibration.identity[:8]}, this model is {self.identity[:8]}; "
                "calibrate again"
            )
        return self.calibration
