"""The classifier: one object from images to answers under a budget."""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offramp.classifier.answering import Answering, joined, opened
from offramp.classifier.calibrations import Calibrations
from offramp.classifier.checks import check_classes, check_parts
from offramp.classifier.identity import DigestCache, Storage, identity_of, stored_form
from offramp.classifier.intake import Intake
from offramp.classifier.measuring import Measuring
from offramp.classifier.running import Running
from offramp.data.preprocess import Images, Preprocessing
from offramp.data.source import Samples, Source
from offramp.decide.answers import AnswerRule, ThisExit
from offramp.decide.calibration import Calibration
from offramp.engine.anytime import AnytimePredictor
from offramp.engine.collect import BATCH, collect, collect_scores
from offramp.engine.opening import AnyRuntime
from offramp.engine.stage_queues import WINDOW
from offramp.measure.macs import staged_macs
from offramp.nets.base import MultiExitNet
from offramp_runtime.checks import check_ways
from offramp_runtime.costs import Costs
from offramp_runtime.plan import ExitPlan
from offramp_runtime.precision import Precision
from offramp_runtime.predictions import Predictions


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
    stream_batch_size = 64
    """Images per step of :meth:`predict_stream`, whose batches do not shrink."""

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
        self.storage: Storage = storage
        self.about = about or {}
        self.running = Running(self.net, lambda: self._digests.of(self.storage))
        self.intake = Intake(preprocessing, self.running)
        self.measuring = Measuring(self.running, lambda: self.identity, self.intake.noise)
        self._answering = Answering(self.running, self.intake, self.measuring, lambda: self.identity)
        self._anytime: tuple[tuple[AnyRuntime, torch.device], AnytimePredictor[Any]] | None = None
        self.calibrations = Calibrations(self.identity_at)
        self._digests = DigestCache(self.net)
        if storage == "fp16":  # what is answered from now on is what will be stored
            net.load_state_dict(stored_form(net.state_dict(), storage))
        if calibration is not None:
            self.calibrations.keep("fp32", calibration)

    def use(
        self, runtime: str = "auto", *, precision: str = "fp32", threads: int | None = None, device: str | None = None
    ) -> "Classifier":
        """Have a runtime compute from now on, instead of the network itself; returns this classifier.

        Args:
            runtime: a name (``offramp list`` shows all), or ``"auto"``: the fastest here, measured once and remembered.
            precision: ``"fp32"``, ``"bf16"`` or ``"int8"``; each has a calibration of its own.
            threads: that compute one call; by default PyTorch's number.
            device: where to run; by default where the network is.

        Raises:
            ConfigError: no such runtime or precision, or it cannot be had here.
            MissingExtraError: a package it needs is not installed.
            ArtifactError: int8 of a model that has not been quantised.
        """
        if device is not None:
            self.net.to(device)
        self.running.use(runtime, precision, threads)
        return self

    @property
    def runtime(self) -> AnyRuntime:
        """What computes: the network itself, or what :meth:`use` has chosen."""
        return self.running.runtime

    @property
    def calibration(self) -> Calibration | None:
        """Of the precision in use."""
        return self.calibrations.get(self.running.precision)

    @calibration.setter
    def calibration(self, calibration: Calibration | None) -> None:
        self.calibrations.put(self.running.precision, calibration)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What images go through, if the model knows."""
        return self.intake.known

    @property
    def device(self) -> torch.device:
        """Where the network lives and images are taken."""
        return self.running.device

    @property
    def identity(self) -> str:
        """SHA-256 of stored weights, precision, answer rule and preprocessing; follows changes of the weights.

        For int8 it is that of the quantised graph too.
        """
        return self.identity_at(self.running.precision)

    def identity_at(self, precision: Precision) -> str:
        """:attr:`identity`, were this precision in use."""
        return identity_of(self.running.digest_at(precision), precision, "this-exit", self.preprocessing)

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
            deadline_ms: of this one call, from decoded pixels to answers; an array's are decoded when it is given. The first
                call with a new number of images measures the stages before the clock starts.
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
            self.calibrations.needed(self.running.precision)
        plan = opened(plan)
        if deadline_ms is not None:
            return self._in_time().predict(images, deadline_ms)
        pixels = self.intake.decode(images)
        if budget is not None:
            plan = self.plan(budget, len(pixels))
        return joined(self._answering.at_once(pixels, self.batch_size, exit, plan), report)

    def predict_stream(
        self,
        images: Samples | Iterable[Images],
        *,
        budget: float | str | None = None,
        exit: int | None = None,
        plan: ExitPlan | str | Path | None = None,
        window: int | None = None,
    ) -> Iterator[Predictions]:
        """Answers for more images than fit into memory: yields them in order, as soon as all before them are answered.

        Under a budget, images that go on wait at each stage until a full batch is there, so that deep stages run full
        batches too; fewer than ``stream_batch_size`` wait at each. By default all are answered at the last exit.

        Args:
            images: samples, which their workers decode meanwhile, or batches of any size of what :meth:`predict` takes.
            budget: as for :meth:`predict`, solved for many images.
            exit: answer everything at this exit, going straight to it.
            plan: a solved plan, or the file of one.
            window: images that are read and not yet yielded, at most; by default 32 batches. Where one image blocks the
                order so long, stages run without being full.

        Raises:
            ConfigError: more than one of budget, exit and plan, no such exit, or a window below one batch.
            BudgetError, ArtifactError, DataError: as :meth:`predict`.
        """
        check_ways({"budget": budget, "exit": exit, "plan": plan}, self.net.num_exits)
        plan, size = opened(plan), self.stream_batch_size
        if budget is not None:
            calibration = self.calibrations.needed(self.running.precision)
            plan = self.measuring.plan(budget, calibration, lambda: self.costs, WINDOW * size, size, queued=True)
        batches = images if isinstance(images, Iterable) else images.batches(size)
        return self._answering.streamed(map(self.intake.decode, batches), size, exit, plan, window)

    def save(self, folder: str | Path) -> None:
        """Write a model folder that :func:`offramp.load` reads."""
        from offramp.classifier.folder import save

        save(self, Path(folder))

    def stream(self, images: Images, deadline_ms: float = float("inf")) -> Iterator[Predictions]:
        """Yield an answer at exit 0, 1, … until the next would miss the deadline.

        Raises:
            BudgetError: the deadline is too short for exit 0.
        """
        yield from self._in_time().stream(images, deadline_ms)

    def anytime(self, rule: AnswerRule | str = "this-exit", confidence: float = 0.99) -> AnytimePredictor[Any]:
        """What answers one image after the other before deadlines, or until told to stop.

        Measures the stages for one image, which takes up to two seconds. See
        :class:`~offramp.engine.anytime.AnytimePredictor` for the arguments.
        """
        predictor = AnytimePredictor(self.runtime, self.intake.preprocessing, rule, confidence, self.device)
        predictor.stage_clock(1)
        return predictor

    def plan(self, budget: float | str, batch: int | None = None) -> ExitPlan:
        """The plan for a mean cost per image, solved from the calibration.

        Args:
            budget: a number in ``costs.unit``, or text with a unit. What stages take in milliseconds or joules is measured
                first, within 15 seconds, and includes what batches cost that shrink as images leave.
            batch: images given at once, where that matters (ms and joules); by default one full batch.

        Raises:
            BudgetError: below exit 0, no calibration, or joules that cannot be measured here.
            MissingExtraError: joules of a GPU without its bindings.
        """
        calibration = self.calibrations.needed(self.running.precision)
        return self.measuring.plan(budget, calibration, lambda: self.costs, batch or self.batch_size, self.batch_size)

    def calibrate(self, source: Source, report: Callable[[int], None] | None = None) -> Calibration:
        """Run the source's calibrate split once and keep its scores.

        Raises:
            DataError: the source has other classes.
        """
        check_classes(self.classes, source)
        confidence, correct = collect_scores(
            self.runtime,
            source.split("calibrate"),
            self.intake.preprocessing,
            ThisExit(),
            device=self.device,
            report=report,
        )
        self.calibration = Calibration(
            confidence, correct, source.name, source.holdout.seed, source.calibrate_indices, self.identity
        )
        return self.calibration

    def collect(self, samples: Samples, report: Callable[[int], None] | None = None) -> Tensor:
        """Logits (K, N, C) of all exits."""
        batches = samples.batches(BATCH)
        return collect(self.runtime, batches, self.intake.preprocessing, device=self.device, report=report)

    def _in_time(self) -> AnytimePredictor[Any]:
        runtime = self.runtime  # another one once the weights have changed
        place = runtime, self.device
        if self._anytime is None or self._anytime[0] != place:
            self._anytime = place, AnytimePredictor(runtime, self.intake.preprocessing, device=self.device)
        return self._anytime[1]
