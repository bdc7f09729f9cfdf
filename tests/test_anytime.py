import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from offramp.data.preprocess import Images, Preprocessing
from offramp.decide.answers import RULES, answers
from offramp.engine.anytime import AnytimePredictor
from offramp.errors import BudgetError, ConfigError, DataError
from tiny import PREPROCESSING, Clockwork, images, make_net

PIXELS = images(3)
stage_ms = st.lists(st.integers(1, 50), min_size=1, max_size=6).map(tuple)


@pytest.fixture(autouse=True, scope="module")
def _learn_in_a_moment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offramp.engine.anytime.LEARNING_S", 0.02)
        yield


class Timed(Clockwork):
    """A clockwork that takes normalised images, and time to start with them."""

    start_ms = 0.0

    def start(self, images: Tensor) -> Tensor:
        self.clock.pass_ms(self.start_ms)
        return images[:, 0, 0, 0]


def no_rest() -> None:
    """What rests is the machine, and here is none."""


def predictor_of(runtime: Timed, count: int = len(PIXELS)) -> AnytimePredictor[Tensor]:
    """One that has learnt how long the stages take for so many images; nothing has run since."""
    predictor = AnytimePredictor(runtime, PREPROCESSING, clock=runtime.clock, rest=no_rest)
    predictor.stage_clock(count)
    runtime.ran.clear()
    return predictor


def exits_before(
    deadline_ms: float, measured: Sequence[float], actual: Sequence[float] | None = None, *, start_ms: float = 0
) -> list[int]:
    """The exits answered at, where stages were measured and really take so many milliseconds."""
    runtime = Timed(measured)
    predictor = predictor_of(runtime)
    runtime.ms, runtime.start_ms = actual or measured, start_ms
    return [int(answer.exit_index[0]) for answer in predictor.stream(PIXELS, deadline_ms)]


# ---- which exits


@given(stage_ms, st.integers(1, 320))
def test_the_deepest_exit_whose_stages_fit_is_the_last_answer(measured: tuple[float, ...], whole_ms: int) -> None:
    deadline = whole_ms + 0.5  # between two ticks, where rounding does not matter
    fitting = [k for k, ready in enumerate(accumulate(measured)) if ready <= deadline]
    if fitting:
        assert exits_before(deadline, measured) == fitting
    else:
        with pytest.raises(BudgetError):
            exits_before(deadline, measured)


def test_predicting_gives_the_last_answer_of_the_stream() -> None:
    found = predictor_of(Timed((10, 10, 10))).predict(PIXELS, 20.5)
    assert found.exit_index.tolist() == [1, 1, 1]


def test_a_deadline_before_exit_0_is_refused_before_anything_runs() -> None:
    runtime = Timed((5.0, 5.0))
    predictor = predictor_of(runtime)
    asks: list[Callable[[], object]] = [
        lambda: predictor.predict(PIXELS, 4.9),
        lambda: next(predictor.stream(PIXELS, 4.9)),
    ]
    for ask in asks:
        with pytest.raises(
            BudgetError, match=r"deadline 4\.9 ms is too short for exit 0, for which 5 ms must be allowed here"
        ):
            ask()
    assert runtime.ran == []


def test_exit_0_that_has_become_too_slow_is_refused_and_tried_again_now_and_then() -> None:
    runtime = Timed((5.0, 5.0))
    predictor = predictor_of(runtime)
    runtime.ms = (50.0, 5.0)
    for _ in range(300):  # more than are remembered
        predictor.predict(PIXELS, 1e3)
    runtime.ms = (5.0, 5.0)  # nobody knows yet
    refused = 0
    while refused < 1000:
        try:
            predictor.predict(PIXELS, 10.5)
        except BudgetError:
            refused += 1
        else:
            if predictor.stage_clock(len(PIXELS)).fits(0, 10.5):
                break
    assert 20 <= refused < 200


@pytest.mark.parametrize("deadline", [0, -1, float("-inf"), float("nan")])
def test_a_deadline_that_is_no_positive_number_is_refused(deadline: float) -> None:
    predictor = predictor_of(Timed((0.0, 0.0)))
    with predictor.start(PIXELS) as run:
        asks: list[Callable[[], object]] = [
            lambda: predictor.predict(PIXELS, deadline),
            lambda: next(predictor.stream(PIXELS, deadline)),
            lambda: run.wait(deadline),
        ]
        for ask in asks:
            with pytest.raises(BudgetError, match="must be a positive number of milliseconds"):
                ask()


def test_without_a_deadline_every_exit_answers_and_nothing_is_measured() -> None:
    runtime = Timed((1e6, 1e6, 1e6))
    predictor = AnytimePredictor(runtime, PREPROCESSING, clock=runtime.clock)
    assert [answer.exit_index[0] for answer in predictor.stream(PIXELS)] == [0, 1, 2]
    assert runtime.ran == [0, 1, 2]


@given(stage_ms, st.data())
def test_a_stage_slower_than_measured_stops_the_later_ones(measured: tuple[float, ...], data: st.DataObject) -> None:
    slow = data.draw(st.integers(0, len(measured) - 1))
    deadline = sum(measured) + 0.5
    actual = tuple(ms + (1000 if k == slow else 0) for k, ms in enumerate(measured))
    assert exits_before(deadline, measured, actual) == list(range(slow + 1))


def test_a_network_faster_than_measured_gets_as_deep_as_the_clock_allows() -> None:
    assert exits_before(30.5, (10, 10, 10, 10), (5, 5, 5, 5)) == [0, 1, 2, 3]


def test_preparing_the_images_counts() -> None:
    assert exits_before(30.5, (10, 10, 10)) == [0, 1, 2]
    assert exits_before(30.5, (10, 10, 10), start_ms=5) == [0, 1]


@pytest.mark.parametrize(("given_as", "exit"), [(PIXELS, 0), ([Image.fromarray(one[..., 0]) for one in PIXELS], 1)])
def test_decoding_counts_where_the_pixels_were_decoded_already(
    given_as: Images, exit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Timed((10, 10))
    predictor = predictor_of(runtime)
    decode = Preprocessing.decode

    def slow(preprocessing: Preprocessing, images: Images) -> NDArray[np.uint8]:
        runtime.clock.pass_ms(3)
        return decode(preprocessing, images)

    monkeypatch.setattr(Preprocessing, "decode", slow)
    assert predictor.predict(given_as, 21).exit_index.tolist() == [exit] * 3
    assert predictor.stage_clock(len(PIXELS)).allow_ms(0) == pytest.approx(13 if given_as is PIXELS else 10)


def test_what_an_answer_took_is_remembered_for_the_next() -> None:
    runtime = Timed((10, 10, 10))
    predictor = predictor_of(runtime)
    runtime.ms = (10, 10, 25)
    assert predictor.predict(PIXELS, 30.5).exit_index[0] == 2
    assert predictor.predict(PIXELS, 30.5).exit_index[0] == 1
    assert predictor.predict(PIXELS, 45.5).exit_index[0] == 2


def test_each_number_of_images_is_measured_by_itself_and_once() -> None:
    runtime = Timed((10, 10))
    predictor = predictor_of(runtime, count=1)
    predictor.predict(PIXELS[:2], 1e3)
    learnt = len(runtime.ran) - 2
    assert learnt > 0
    predictor.predict(PIXELS[:2], 1e3)
    predictor.predict(PIXELS[:1], 1e3)
    assert len(runtime.ran) == learnt + 6


# ---- the clock of a stream


def consumed(think_ms: float) -> list[int]:
    runtime = Timed((10, 10, 10))
    taken = []
    for answer in predictor_of(runtime).stream(PIXELS, 30.5):
        taken.append(int(answer.exit_index[0]))
        runtime.clock.pass_ms(think_ms)
    return taken


def test_time_spent_between_two_answers_counts_too() -> None:
    assert consumed(think_ms=0) == [0, 1, 2]
    assert consumed(think_ms=1) == [0, 1]
    assert consumed(think_ms=15) == [0]


def test_time_spent_between_two_answers_is_not_taken_for_a_slow_stage() -> None:
    runtime = Timed((10, 10))
    predictor = predictor_of(runtime)
    for _ in predictor.stream(PIXELS, 1e6):
        runtime.clock.pass_ms(1000)
    assert [predictor.stage_clock(3).allow_ms(k) for k in range(2)] == pytest.approx([10, 10])


def test_the_clock_starts_when_the_first_answer_is_asked_for() -> None:
    runtime = Timed((10, 10))
    stream = predictor_of(runtime).stream(PIXELS, 20.5)
    runtime.clock.pass_ms(1000)
    assert [answer.exit_index[0] for answer in stream] == [0, 1]


def test_nothing_is_computed_before_it_is_asked_for() -> None:
    runtime = Timed((1, 1, 1))
    stream = predictor_of(runtime).stream(PIXELS, 100)
    assert runtime.ran == []
    next(stream)
    assert runtime.ran == [0]


# ---- what is answered


@pytest.mark.parametrize("name", RULES)
def test_answers_are_those_of_the_rule_over_a_walk_of_the_network(name: str) -> None:
    net = make_net()
    logits = torch.stack(list(net.walk(PREPROCESSING.normalize(torch.from_numpy(PIXELS))))).detach()
    expected = answers(RULES[name], logits)
    found = list(AnytimePredictor(net, PREPROCESSING, name).stream(PIXELS))
    assert len(found) == 3
    for k, (got, wanted) in enumerate(zip(found, expected, strict=True)):
        assert got.label.tolist() == wanted.label.tolist()
        assert got.exit_index.tolist() == [k] * 3
        assert got.probability == pytest.approx(wanted.confidence.numpy(), abs=1e-6)
        assert got.probabilities == pytest.approx(wanted.probabilities.numpy(), abs=1e-6)


def test_the_answer_of_this_exit_has_its_logits() -> None:
    net = make_net()
    expected = net.direct(2, PREPROCESSING.normalize(torch.from_numpy(PIXELS))).detach()
    found = AnytimePredictor(net, PREPROCESSING).predict(PIXELS, 60_000)
    assert found.logits == pytest.approx(expected.numpy(), abs=1e-5)


@given(st.integers(0, 1000))
def test_the_confidence_of_a_product_of_experts_never_falls_as_time_passes(seed: int) -> None:
    predictor = AnytimePredictor(make_net(), PREPROCESSING, "product-of-experts")
    found = np.stack([answer.probability for answer in predictor.stream(images(4, seed))])
    assert (np.diff(found, axis=0) >= 0).all()


def test_no_images_get_no_answers() -> None:
    assert len(AnytimePredictor(make_net(), PREPROCESSING).predict(images(0), 60_000)) == 0


def test_a_rule_nobody_knows_is_refused_with_near_names() -> None:
    with pytest.raises(
        ConfigError, match="no answer rule is called 'product-of-expert'; did you mean 'product-of-experts'"
    ):
        AnytimePredictor(make_net(), PREPROCESSING, "product-of-expert")


def test_a_confidence_that_is_no_probability_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="confidence 99: must lie between 0 and 1"):
        AnytimePredictor(make_net(), PREPROCESSING, confidence=99)


# ---- many threads


def test_many_threads_may_ask_at_once() -> None:
    net = make_net()
    predictor = AnytimePredictor(net, PREPROCESSING)
    batches = [images(1, seed) for seed in range(40)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda one: predictor.predict(one, 60_000), batches))
        runs = list(threads.map(predictor.start, batches))
        waited = [run.wait() for run in runs]
    for one, got, later in zip(batches, found, waited, strict=True):
        expected = net.direct(2, PREPROCESSING.normalize(torch.from_numpy(one))).detach().numpy()
        assert got.logits == pytest.approx(expected, abs=1e-5)
        assert later.logits == pytest.approx(expected, abs=1e-5)


def test_threads_that_meet_a_number_of_images_at_once_measure_it_once() -> None:
    predictor = AnytimePredictor(make_net(), PREPROCESSING)
    with ThreadPoolExecutor(8) as threads:
        clocks = list(threads.map(predictor.stage_clock, [2] * 8))
    assert all(clock is clocks[0] for clock in clocks)


def test_predicting_computes_in_the_thread_that_asks() -> None:
    class Where(Timed):
        threads: set[int]

        def step(self, k: int, state: Tensor) -> tuple[Tensor, Tensor]:
            self.threads.add(threading.get_ident())
            return super().step(k, state)

    runtime = Where((1, 1))
    runtime.threads = set()
    predictor_of(runtime).predict(PIXELS, 1e3)
    assert runtime.threads == {threading.get_ident()}


def test_an_image_that_is_none_is_refused_where_it_is_given() -> None:
    predictor = AnytimePredictor(make_net(), PREPROCESSING)
    with pytest.raises(DataError):
        predictor.start(np.zeros((1, 5, 5, 1), np.uint8))
