import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bundles import (
    assert_close,
    check_joining,
    check_many_threads,
    check_stepping_one_state_at_once,
    expected,
    network_input,
    run_all,
)
from offramp_runtime import onnx, pool, states
from offramp_runtime.cancellation import Cancellation
from offramp_runtime.errors import ConfigError, MissingExtraError
from offramp_runtime.onnx import OnnxStages, open_stages


@pytest.fixture(scope="module")
def stages(bundle: Path) -> OnnxStages:
    return open_stages(bundle, 3, threads=1)


@pytest.fixture
def fresh(bundle: Path) -> OnnxStages:
    """Stages nobody has used yet."""
    return open_stages(bundle, 3, threads=1)


@pytest.mark.parametrize("count", [1, 7, 64])
def test_stages_answer_as_the_network_does(stages: OnnxStages, count: int) -> None:
    given = network_input(count)
    for _ in range(2):  # the first run finds out what memory the second needs
        assert_close(run_all(stages, given), expected(given))


@pytest.mark.parametrize("count", [1, 7, 64])
@pytest.mark.parametrize("k", range(3))
def test_going_straight_to_an_exit_gives_its_answer(stages: OnnxStages, k: int, count: int) -> None:
    given = network_input(count)
    for _ in range(2):
        assert_close(stages.direct(k, given), expected(given)[k])


@pytest.mark.parametrize("k", [-1, 3])
def test_going_to_an_exit_that_is_not_there_is_refused(stages: OnnxStages, k: int) -> None:
    with pytest.raises(ConfigError, match=f"exit {k}: this network has exits 0 … 2"):
        stages.direct(k, network_input(1))


def test_two_threads_compute_the_same(bundle: Path) -> None:
    given = network_input(7)
    assert_close(run_all(open_stages(bundle, 3, threads=2), given), expected(given))


def test_stepping_a_state_twice_gives_the_same_twice(stages: OnnxStages) -> None:
    given = network_input(5)
    state, _ = stages.step(0, stages.start(given))
    _, first = stages.step(1, state)
    stages.step(1, stages.step(0, stages.start(network_input(5, seed=1)))[0])
    after, second = stages.step(1, state)
    _, last = stages.step(2, after)
    assert np.array_equal(first, second)
    assert_close(last, expected(given)[2])


def test_logits_stay_what_they_are_when_memory_is_used_again(stages: OnnxStages) -> None:
    given = network_input(3)
    _, logits = stages.step(0, stages.start(given))
    before = logits.copy()
    run_all(stages, network_input(3, seed=1))
    assert np.array_equal(logits, before)


def test_images_may_change_once_a_state_has_been_made_of_them(stages: OnnxStages) -> None:
    given = network_input(3)
    state = stages.start(given)
    wanted = expected(given)[0]
    given[:] = 0
    assert_close(stages.step(0, state)[1], wanted)


@pytest.mark.parametrize("rows", [[2], [6, 0, 3], [1, 1, 1, 5], list(range(7))])
def test_rows_taken_go_on_as_those_images_would(stages: OnnxStages, rows: list[int]) -> None:
    given = network_input(7)
    state, _ = stages.step(0, stages.start(given))
    state, logits = stages.step(1, stages.take(state, np.array(rows)))
    assert_close(logits, expected(given)[1][rows])
    _, logits = stages.step(2, stages.take(state, np.arange(len(rows))[::-1].copy()))
    assert_close(logits, expected(given)[2][rows[::-1]])


def test_joined_states_go_on_as_one_batch_would(stages: OnnxStages) -> None:
    check_joining(stages)


def test_many_threads_may_use_one_instance_at_once(stages: OnnxStages) -> None:
    check_many_threads(stages)


def test_a_run_that_is_never_cancelled_gives_what_a_step_gives(stages: OnnxStages) -> None:
    given = network_input(2)
    done = stages.step_unless(Cancellation(), 0, stages.start(given))
    assert done is not None
    assert_close(done[1], expected(given)[0])


def test_a_stage_cancelled_midway_gives_nothing_and_leaves_its_state_as_it_was(stages: OnnxStages) -> None:
    given = network_input(64)
    state, _ = stages.step(0, stages.start(given))
    stages.step(1, state)
    cancelled = Cancellation()
    cancelled.set()  # before the run reaches its first node, whatever the machine is doing
    assert stages.step_unless(cancelled, 1, state) is None
    state, logits = stages.step(1, state)
    assert_close(logits, expected(given)[1])
    assert_close(stages.step(2, state)[1], expected(given)[2])


def test_the_first_run_of_all_can_be_cancelled(fresh: OnnxStages) -> None:
    given = network_input(4)
    state = fresh.start(given)
    cancelled = Cancellation()
    cancelled.set()
    assert fresh.step_unless(cancelled, 0, state) is None
    assert_close(fresh.step(0, state)[1], expected(given)[0])


def test_an_error_that_is_not_a_cancellation_is_not_hidden(stages: OnnxStages) -> None:
    wrong = stages.start(np.zeros((1, 2, 16, 16), np.float32))
    with pytest.raises(Exception, match=r"(?i)invalid|mismatch|dimension"):
        stages.step_unless(Cancellation(), 0, wrong)


def test_memory_of_many_batch_sizes_is_given_back(fresh: OnnxStages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LARGE_BYTES", 2**12)
    monkeypatch.setattr(pool, "_LARGE_KEPT_BYTES", 2**20)
    monkeypatch.setattr(states, "LANE_BYTES", 0)
    blocks: list[weakref.ref[NDArray[np.float32]]] = []
    make = pool.Pool._block

    def watched(self: pool.Pool, array: NDArray[np.float32]) -> pool.Block:
        made = make(self, array)
        if array.nbytes > 2**12:
            blocks.append(weakref.ref(made.array))
        return made

    monkeypatch.setattr(pool.Pool, "_block", watched)
    for count in range(40, 64):
        run_all(fresh, network_input(count))
    alive = [array.nbytes for array in (ref() for ref in blocks) if array is not None]
    assert len(blocks) > 100
    assert sum(alive) <= 2**20


def test_few_images_run_on_the_memory_of_those_before(fresh: OnnxStages, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = network_input(3), network_input(3, seed=1)
    for _ in range(2):  # what memory is needed, the first run of all has to find out
        run_all(fresh, first)
    monkeypatch.setattr(pool, "aligned", None)  # must not be called
    assert_close(run_all(fresh, second), expected(second))


def test_runs_of_few_images_that_overlap_have_memory_of_their_own(fresh: OnnxStages) -> None:
    batches = [network_input(2, seed) for seed in range(12)]
    run_all(fresh, batches[0])
    states = [fresh.start(given) for given in batches]
    for k in range(3):
        found = [fresh.step(k, state) for state in states]
        states = [state for state, _ in found]
        for given, (_, logits) in zip(batches, found, strict=True):
            assert_close(logits, expected(given)[k])
    del states, found
    assert len(fresh._free) <= 8


def test_a_stage_out_of_order_is_refused(stages: OnnxStages) -> None:
    state, _ = stages.step(0, stages.start(network_input(1)))
    for k in (0, 2):
        with pytest.raises(ConfigError, match=f"stage {k} of a state behind 1 stages: run stage 1 next"):
            stages.step(k, state)


def test_threads_may_step_the_same_state(stages: OnnxStages) -> None:
    check_stepping_one_state_at_once(stages)


def test_a_second_open_takes_what_the_first_has_prepared(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_stages(bundle, 3, threads=1)
    monkeypatch.setattr(onnx, "optimise", None)  # must not be called
    given = network_input(2)
    assert_close(run_all(open_stages(bundle, 3, threads=1), given), expected(given))


def test_another_cpu_or_release_of_onnx_runtime_prepares_anew(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path))
    made: list[Path] = []
    monkeypatch.setattr(onnx, "OnnxStages", lambda stages, direct, threads: None)
    monkeypatch.setattr(onnx, "optimise", lambda sources, folder: made.append(folder))
    for change in ("version_of", "cpu_name"):
        open_stages(bundle, 3, threads=1)
        open_stages(bundle, 3, threads=1)
        monkeypatch.setattr(onnx, change, lambda *_: "another")
    open_stages(bundle, 3, threads=1)
    assert len(made) == 3


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_the_extra(bundle: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"needs {package}, .*offramp-runtime\[onnx\]"):
        open_stages(bundle, 3, threads=1)
