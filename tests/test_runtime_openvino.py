from pathlib import Path

import numpy as np
import pytest

from bundles import (
    assert_close,
    check_joining,
    check_many_threads,
    copy_of,
    expected,
    network_input,
    run_all,
    run_without,
)
from offramp_runtime.cancellation import Cancellation
from offramp_runtime.errors import ArtifactError, ConfigError

pytest.importorskip("openvino")

from offramp_runtime import openvino, openvino_compiler, openvino_core
from offramp_runtime.openvino import OpenVINOStages, open_stages
from offramp_runtime.precision import Precision


@pytest.fixture(scope="module")
def stages(bundle: Path) -> OpenVINOStages:
    return open_stages(bundle, 3, threads=1, precision="fp32")


@pytest.fixture(scope="module")
def halved(bundle: Path) -> OpenVINOStages:
    """Stages that hand over bf16, on any CPU: one without it computes in float32 between the borders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino_compiler, "need_bf16", lambda core: None)
        return open_stages(bundle, 3, threads=1, precision="bf16")


@pytest.mark.parametrize("count", [1, 7, 64, 90])
def test_stages_answer_as_the_network_does(stages: OpenVINOStages, count: int) -> None:
    given = network_input(count)
    for _ in range(2):  # the second time in memory and with requests of the first
        assert_close(run_all(stages, given), expected(given))


@pytest.mark.parametrize("count", [1, 7, 64])
@pytest.mark.parametrize("k", range(3))
def test_going_straight_to_an_exit_gives_its_answer(stages: OpenVINOStages, k: int, count: int) -> None:
    given = network_input(count)
    assert_close(stages.direct(k, given), expected(given)[k])


@pytest.mark.parametrize("k", [-1, 3])
def test_going_to_an_exit_that_is_not_there_is_refused(stages: OpenVINOStages, k: int) -> None:
    with pytest.raises(ConfigError, match=f"exit {k}: this network has exits 0 … 2"):
        stages.direct(k, network_input(1))


def test_two_threads_compute_the_same(bundle: Path) -> None:
    given = network_input(7)
    assert_close(run_all(open_stages(bundle, 3, threads=2, precision="fp32"), given), expected(given))


def test_no_images_get_no_logits(stages: OpenVINOStages) -> None:
    assert run_all(stages, network_input(0)).shape == (3, 0, 4)
    assert stages.direct(1, network_input(0)).shape == (0, 4)


def test_stepping_a_state_twice_gives_the_same_twice(stages: OpenVINOStages) -> None:
    given = network_input(5)
    state, _ = stages.step(0, stages.start(given))
    _, first = stages.step(1, state)
    stages.step(1, stages.step(0, stages.start(network_input(5, seed=1)))[0])
    after, second = stages.step(1, state)
    assert np.array_equal(first, second)
    assert_close(stages.step(2, after)[1], expected(given)[2])


def test_logits_stay_what_they_are_when_memory_is_used_again(stages: OpenVINOStages) -> None:
    _, logits = stages.step(0, stages.start(network_input(3)))
    before = logits.copy()
    run_all(stages, network_input(3, seed=1))
    assert np.array_equal(logits, before)


def test_images_may_change_once_a_state_has_been_made_of_them(stages: OpenVINOStages) -> None:
    given = network_input(3)
    state = stages.start(given)
    wanted = expected(given)[0]
    given[:] = 0
    assert_close(stages.step(0, state)[1], wanted)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("rows", [[2], [6, 0, 3], [1, 1, 1, 5], list(range(7)), []])
def test_rows_taken_go_on_as_those_images_would(
    stages: OpenVINOStages, halved: OpenVINOStages, precision: Precision, rows: list[int]
) -> None:
    used = stages if precision == "fp32" else halved
    state, _ = used.step(0, used.start(network_input(7)))
    after, all_logits = used.step(1, state)
    taken, logits = used.step(1, used.take(state, np.array(rows, np.int64)))
    assert logits == pytest.approx(all_logits[rows], rel=1e-4, abs=1e-5)
    _, logits = used.step(2, used.take(taken, np.arange(len(rows))[::-1].copy()))
    assert logits == pytest.approx(used.step(2, after)[1][rows[::-1]], rel=1e-4, abs=1e-5)


def test_joined_states_go_on_as_one_batch_would(stages: OpenVINOStages) -> None:
    check_joining(stages)


def test_many_threads_may_use_one_instance_at_once(stages: OpenVINOStages) -> None:
    check_many_threads(stages)


def test_a_run_that_is_never_cancelled_gives_what_a_step_gives(stages: OpenVINOStages) -> None:
    given = network_input(2)
    done = stages.step_unless(Cancellation(), 0, stages.start(given))
    assert done is not None
    assert_close(done[1], expected(given)[0])


def test_a_cancelled_stage_gives_nothing_and_leaves_its_state_as_it_was(stages: OpenVINOStages) -> None:
    given = network_input(4)
    state, _ = stages.step(0, stages.start(given))
    cancelled = Cancellation()
    cancelled.set()
    assert stages.step_unless(cancelled, 1, state) is None
    assert_close(stages.step(1, state)[1], expected(given)[1])


def test_a_stage_cancelled_while_it_runs_gives_nothing(stages: OpenVINOStages, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled = Cancellation()
    step = stages.step

    def cancel_midway(k: int, state: object) -> object:
        cancelled.set()
        return step(k, state)  # type: ignore[arg-type]

    monkeypatch.setattr(stages, "step", cancel_midway)
    assert stages.step_unless(cancelled, 0, stages.start(network_input(1))) is None


def test_an_image_the_network_cannot_take_is_an_error_and_does_no_harm(stages: OpenVINOStages) -> None:
    with pytest.raises(RuntimeError):
        stages.step(0, stages.start(np.zeros((1, 2, 16, 16), np.float32)))
    given = network_input(1)
    assert_close(run_all(stages, given), expected(given))


def test_maps_are_handed_over_with_channels_last(stages: OpenVINOStages) -> None:
    state, _ = stages.step(0, stages.start(network_input(1)))
    maps = stages.arrays(state).values()
    assert maps
    assert all(part.shape[1] == part.shape[2] for part in maps)


def test_bf16_stages_hand_over_half_as_many_bytes(stages: OpenVINOStages, halved: OpenVINOStages) -> None:
    def nbytes(of: OpenVINOStages) -> int:
        return sum(array.nbytes for array in of.arrays(of.step(0, of.start(network_input(3)))[0]).values())

    assert 2 * nbytes(halved) == nbytes(stages)


@pytest.mark.parametrize("count", [1, 7])
def test_bf16_stages_answer_nearly_as_the_network_does(halved: OpenVINOStages, count: int) -> None:
    given = network_input(count)
    wanted = expected(given)
    assert np.abs(run_all(halved, given) - wanted).max() <= 0.03 * np.abs(wanted).max()


def test_bf16_is_refused_where_the_cpu_lacks_it(bundle: Path) -> None:
    if "BF16" in openvino_core.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has bf16")
    with pytest.raises(ConfigError, match=r"avx512_bf16 or amx_bf16, this one has .*FP32.*take fp32 or int8"):
        open_stages(bundle, 3, threads=1, precision="bf16")


def test_a_second_start_compiles_nothing(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path))
    given = network_input(5)
    run_all(open_stages(bundle, 3, threads=1, precision="fp32"), given)
    kept = sorted(tmp_path.rglob("*"))

    def refuse(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(openvino_compiler.Compiler, "_compile", refuse)
    assert_close(run_all(open_stages(bundle, 3, threads=1, precision="fp32"), given), expected(given))
    assert sorted(tmp_path.rglob("*")) == kept


def test_graphs_that_have_changed_since_they_were_opened_are_not_mixed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path / "cache"))
    copy = copy_of(bundle, tmp_path)
    opened = open_stages(copy, 3, threads=1, precision="fp32")
    weights = bytearray((copy / "weights.bin").read_bytes())
    weights[100] ^= 1
    (copy / "weights.bin").write_bytes(weights)
    with pytest.raises(ArtifactError, match="has changed since it was opened; open it again"):
        run_all(opened, network_input(4))


def test_what_is_damaged_in_the_cache_is_compiled_anew(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path))
    open_stages(bundle, 3, threads=1, precision="fp32")
    blobs = {path: path.stat().st_size for path in tmp_path.rglob("*.blob")}
    for blob in blobs:
        blob.write_bytes(b"")
    open_stages(bundle, 3, threads=1, precision="fp32")
    assert {path: path.stat().st_size for path in tmp_path.rglob("*.blob")} == blobs


def test_what_openvino_does_not_take_back_is_named(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path))
    monkeypatch.setattr(
        openvino_compiler.Compiler, "_compile", lambda _self, _path, _size, folder: (folder / "compiled.blob").touch()
    )
    with pytest.raises(ArtifactError, match=r"cannot be opened \(.*\); remove this folder, and it is made anew"):
        open_stages(bundle, 3, threads=1, precision="fp32")


def test_other_settings_are_compiled_anew(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path))
    open_stages(bundle, 3, threads=1, precision="fp32")
    first = len(list(tmp_path.rglob("*.blob")))
    open_stages(bundle, 3, threads=2, precision="fp32")
    assert len(list(tmp_path.rglob("*.blob"))) == 2 * first


def test_graphs_straight_to_an_exit_are_compiled_when_first_used(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path))
    opened = open_stages(bundle, 3, threads=1, precision="fp32")
    first = len(list(tmp_path.rglob("*.blob")))
    opened.direct(2, network_input(1))
    assert (first, len(list(tmp_path.rglob("*.blob")))) == (3, 4)


def test_signals_arrive_after_two_networks_are_let_go_of(bundle: Path) -> None:
    lines = run_without(
        [],
        """
import signal
from pathlib import Path
from offramp_runtime.openvino import open_stages
first, second = (open_stages(Path(sys.argv[1]), 3, threads=threads, precision="fp32") for threads in (1, 2))
del first
del second
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process started in the background ignores it
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
""",
        bundle,
    )
    assert lines == ["interrupted"]


def test_importing_openvino_reports_to_nobody() -> None:
    lines = run_without(
        [],
        """
import threading
from offramp_runtime.openvino_core import core
core()
print(threading.active_count(), "openvino" in sys.modules, "openvino_telemetry" in sys.modules)
""",
    )
    assert lines == ["1 True False"]


def test_a_missing_openvino_is_an_error_that_names_the_extra(bundle: Path) -> None:
    lines = run_without(
        ["openvino"],
        """
import importlib.util
from pathlib import Path
from offramp_runtime.errors import MissingExtraError
from offramp_runtime import openvino, openvino_core
openvino_core.find_spec = lambda name: None
try:
    openvino.open_stages(Path(sys.argv[1]), 3, threads=1, precision="fp32")
except MissingExtraError as error:
    print(error)
""",
        bundle,
    )
    assert lines == [
        "runtime 'openvino' needs openvino, which is not installed; install it: pip install 'offramp-runtime[openvino]'"
    ]


@pytest.mark.parametrize("samples", [0, 1, 3, 4, 37, 64, 200])
def test_parts_cover_a_batch_once_in_order(samples: int) -> None:
    covered = [row for first, size in openvino._parts(samples) for row in range(first, first + size)]
    assert covered == list(range(samples))
