"""What must survive where images come from worker processes, and when signals ask for an end."""

import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

import tiny_train
from faulty import Training, check_same, losses, resume, steps_saved, streaming, unfinished, write_images
from offramp.data.detect import named_source
from offramp.data.holdout import Holdout
from offramp.data.streamed import Files, StreamedSplit
from offramp.data.workers import Workers
from tiny import PREPROCESSING

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes where Linux lists them"),
]

STEPS = 15
"""Of a streamed run: 80 images in batches of 16, three times."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each class."""
    return write_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a streamed training that goes from its beginning to its end."""
    training = Training(tmp_path_factory.mktemp("whole") / "run", *streaming(images))
    assert training.notes() == []
    assert steps_saved(training.out) == [10, STEPS]
    return training.out


@pytest.fixture
def own_images(images: Path, tmp_path: Path) -> Path:
    """A copy of them that may be spoilt."""
    return Path(shutil.copytree(images, tmp_path / "images"))


# ---- worker processes


def test_a_killed_run_leaves_its_folder_free_while_its_workers_are_still_there(
    whole: Path, images: Path, tmp_path: Path
) -> None:
    training = Training.stopped_at("step 6", tmp_path / "run", *streaming(images))
    workers = training.workers
    assert len(workers) == 2
    for worker in workers:  # they would end by themselves in a while
        os.kill(worker, signal.SIGSTOP)
    training.kill()
    try:
        assert resume(training.out, *streaming(images)) == []
        assert all(Path(f"/proc/{worker}").exists() for worker in workers)
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
    check_same(training.out, whole)


def test_a_killed_worker_ends_the_run_in_one_line_with_its_state_saved(
    whole: Path, images: Path, tmp_path: Path
) -> None:
    training = Training.stopped_at("step 6", tmp_path / "run", *streaming(images))
    os.kill(training.workers[0], signal.SIGKILL)
    training.go_on()
    assert training.complaint().startswith("a process that decodes images was killed, perhaps for want of memory")
    assert 6 <= steps_saved(training.out)[-1] < STEPS
    assert resume(training.out, *streaming(images), "--workers", 1) == []
    check_same(training.out, whole)


def test_images_that_vanish_end_the_run_by_their_name_with_its_state_saved(
    whole: Path, own_images: Path, tmp_path: Path
) -> None:
    training = Training.stopped_at("step 6", tmp_path / "run", *streaming(own_images))
    vanished = (own_images / "left").rename(tmp_path / "elsewhere")
    training.go_on()
    message = training.complaint()
    assert message.startswith(f"{own_images / 'left'}/")
    assert message.endswith(".png: no such file; check the path")
    assert Path(message.partition(": ")[0]).name in {path.name for path in vanished.iterdir()}
    assert 6 <= steps_saved(training.out)[-1] < STEPS
    vanished.rename(own_images / "left")
    assert resume(training.out, *streaming(own_images)) == []
    check_same(training.out, whole)


def test_a_held_out_image_that_vanishes_costs_no_step_either(whole: Path, own_images: Path, tmp_path: Path) -> None:
    held_out = named_source(str(own_images), PREPROCESSING).open(holdout=Holdout(0, 16)).split("calibrate")
    assert isinstance(held_out, StreamedSplit)
    assert isinstance(held_out.encoded, Files)
    image = Path(held_out.encoded.name(3))
    training = Training.stopped_at("step 6", tmp_path / "run", *streaming(own_images))
    elsewhere = image.rename(tmp_path / "elsewhere.png")
    training.go_on()
    assert training.complaint() == f"{image}: no such file; check the path"
    assert steps_saved(training.out) == [5, 10]
    assert [epoch for epoch, *_ in losses(training.out)] == [1]
    elsewhere.rename(image)
    assert resume(training.out, *streaming(own_images)) == []
    check_same(training.out, whole)


def spawn_under_ctrl_c(log: Path) -> None:
    """Starts workers while Ctrl-C is pressed all the time."""
    os.setsid()
    tiny_train.write_to(log)
    signal.signal(signal.SIGINT, lambda *_: None)

    def press() -> None:
        while True:
            os.killpg(0, signal.SIGINT)
            time.sleep(0.02)

    threading.Thread(target=press, daemon=True).start()
    assert list(Workers(1, "spawn").run([10, 11, 12], [[0], [2]], list)) == [[10], [12]]


def test_workers_never_hear_of_ctrl_c_however_early_it_is_pressed(tmp_path: Path) -> None:
    process = multiprocessing.get_context("forkserver").Process(target=spawn_under_ctrl_c, args=(tmp_path / "log",))
    process.start()
    process.join(60)
    assert (tmp_path / "log").read_text() == ""
    assert process.exitcode == 0


class Orphaned:
    """Finds, as the thread does that hands over batches, that whoever asked for one is gone; or something unheard of."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, key: int) -> int:
        sys.excepthook(type(self.error), self.error, None)
        return key


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionResetError(104, "gone"), ""),
        (EOFError("gone"), ""),
        (OSError(5, "broken"), "OSError: [Errno 5] broken\n"),
    ],
)
def test_a_worker_says_nothing_of_a_parent_that_is_gone(
    capfd: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    assert list(Workers(1).run(Orphaned(error), [[3]], list)) == [[3]]
    assert capfd.readouterr().err == said


# ---- signals


ASKED = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
"""To end, and the exit code a shell expects then."""


@pytest.mark.parametrize(("number", "code"), ASKED)
def test_a_signal_to_the_workers_too_ends_the_run_with_its_state_saved(
    whole: Path, images: Path, tmp_path: Path, number: int, code: int
) -> None:
    training = Training.stopped_at("step 6", tmp_path / "run", *streaming(images))
    assert len(training.workers) == 2
    training.send(number, group=True)
    training.go_on()
    message = training.complaint(code)
    _, step = steps_saved(training.out)
    assert message == f"stopped after step {step}; go on with --resume"
    assert step == 7 or (step == 6 and number == signal.SIGTERM)  # where the images of the step died with a worker
    assert resume(training.out, *streaming(images)) == []
    check_same(training.out, whole)


@pytest.mark.parametrize(
    ("number", "code", "said", "left"),
    [(signal.SIGINT, 130, ["offramp: interrupted"], []), (signal.SIGTERM, -15, [], ["step-00000010"])],
)
def test_a_second_signal_ends_the_run_at_once_and_leaves_nothing_half_saved(
    whole: Path, images: Path, tmp_path: Path, number: int, code: int, said: list[str], left: list[str]
) -> None:
    training = Training.stopped_at("half step-00000010", tmp_path / "run", *streaming(images))
    training.send(number, group=True)
    time.sleep(0.3)
    assert training.running
    training.send(number, group=True)
    assert training.end() == code
    assert [line for line in training.said.splitlines() if not line.startswith("{")] == said
    assert steps_saved(training.out) == [5]
    assert unfinished(training.out) == left
    assert resume(training.out, *streaming(images)) == []
    check_same(training.out, whole)
