"""What must survive: processes that are killed or asked to end go on to the same weights, one at a time in a folder."""

import shutil
import signal
from pathlib import Path

import pytest

from faulty import Training, check_same, killed_run, resume, steps_saved, unfinished, whole_run
from offramp.train.checkpoint import Checkpoints

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="looks for processes where Linux lists them"
)

Out = Path
"""Run folder of a training that goes from its beginning to its end."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Out:
    return whole_run(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Out:
    """Killed in the last epoch, with checkpoints of the two before it."""
    return killed_run(tmp_path_factory.mktemp("killed") / "run")


@pytest.fixture
def half_way(killed: Out, tmp_path: Path) -> Out:
    """A copy of it that may be spoilt."""
    return Path(shutil.copytree(killed, tmp_path / "run"))


# ---- killed


@pytest.mark.parametrize(
    ("moment", "saved", "half"),
    [
        ("step 6", [4], []),  # in the midst of an epoch
        ("after step-00000004", [4], []),
        ("half step-00000008", [4], ["step-00000008"]),
        ("half weights.safetensors", [8, 12], ["weights"]),
        ("step 2", [], []),  # before there is any checkpoint
    ],
)
def test_a_run_that_is_killed_goes_on_to_the_same_weights(
    whole: Out, tmp_path: Path, moment: str, saved: list[int], half: list[str]
) -> None:
    training = Training.stopped_at(moment, tmp_path / "run")
    training.kill()
    assert steps_saved(training.out) == saved
    assert unfinished(training.out) == half
    begins_anew = ["the run did not come to its first checkpoint; it begins anew"]
    assert resume(training.out) == ([] if saved else begins_anew)
    check_same(training.out, whole)


def test_a_run_that_is_killed_again_and_again_leaves_nothing_half_written(whole: Out, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for moment in ("step 3", "half step-00000004", "after step-00000004", "half step-00000008", "half step-00000008"):
        more = ["--resume"] if out.exists() else []
        Training.stopped_at(moment, out, *more).kill()
        assert len(unfinished(out)) <= 1
    resume(out)
    check_same(out, whole)


# ---- resumed elsewhere


def test_other_threads_on_resume_are_said(whole: Out, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "run"))  # only its model is still to be written
    (note,) = Training(out, "--resume", threads=2).notes()
    assert note.startswith("resumed with threads 2 (was 1)")
    assert note.endswith(": weights may differ in their last bits from an uninterrupted run")
    check_same(out, whole)


def test_another_machine_or_version_on_resume_is_said(whole: Out, half_way: Out) -> None:
    kept = Checkpoints(half_way / "checkpoints")
    state = kept.load(pytest.fail)
    state["machine"] |= {"device": "Abacus", "pillow": "0.1", "forgotten": "1.0"}
    kept.save(state, 8)
    (note,) = resume(half_way)
    for part in ("device ", "(was Abacus)", "pillow ", "(was 0.1)", "forgotten None (was 1.0)"):
        assert part in note
    check_same(half_way, whole)


def test_another_precision_on_resume_is_refused(half_way: Out) -> None:
    message = Training(half_way, "--set", "precision=bf16", "--resume").complaint()
    assert message == "the checkpoint was made with precision=fp32, not bf16: resume with the same settings"
    assert steps_saved(half_way) == [4, 8]


# ---- asked to end


ASKED = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
"""To end, and the exit code a shell expects then."""


@pytest.mark.parametrize(("number", "code"), ASKED)
def test_a_signal_ends_the_run_with_its_state_saved(whole: Out, tmp_path: Path, number: int, code: int) -> None:
    training = Training.stopped_at("step 6", tmp_path / "run")
    training.send(number)
    training.go_on()
    assert training.complaint(code) == "stopped after step 7; go on with --resume"
    assert steps_saved(training.out) == [4, 7]
    assert resume(training.out) == []
    check_same(training.out, whole)


# ---- two at once


@pytest.mark.parametrize(("moment", "more"), [("step 2", []), ("step 6", ["--resume"])])
def test_a_second_run_in_the_folder_is_refused_and_the_first_goes_on(
    whole: Out, tmp_path: Path, moment: str, more: list[str]
) -> None:
    first = Training.stopped_at(moment, tmp_path / "run")
    message = Training(first.out, *more).complaint()
    assert message == f"{first.out}: another run is writing there; wait for it, or choose another --out"
    first.go_on()
    assert first.notes() == []
    check_same(first.out, whole)
