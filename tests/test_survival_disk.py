"""What must survive: disks that are full or read-only, files that are damaged, and losses that are no numbers."""

import re
import resource
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from faulty import Training, check_same, fresh, killed_run, losses, resume, steps_saved, unfinished, whole_run
from offramp.train.checkpoint import Checkpoints

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes where Linux lists them"),
]

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


def checkpoints(out: Out) -> list[Path]:
    return Checkpoints(out / "checkpoints").files


# ---- no room, no permission


def test_a_checkpoint_that_finds_no_room_ends_the_run_and_leaves_the_one_before(whole: Out, tmp_path: Path) -> None:
    training = Training.stopped_at("step 6", tmp_path / "run")
    (first,) = checkpoints(training.out)
    content = first.read_bytes()
    resource.prlimit(training.pid, resource.RLIMIT_FSIZE, (len(content) // 2, resource.RLIM_INFINITY))
    training.go_on()
    message = training.complaint()
    assert "step-00000008." in message
    assert message.endswith("cannot be written (File too large); check the folder and the disk")
    assert checkpoints(training.out) == [first]
    assert first.read_bytes() == content
    assert unfinished(training.out) == []
    assert resume(training.out) == []
    check_same(training.out, whole)


def can_mount() -> bool:
    tools = shutil.which("unshare"), shutil.which("mount")
    return all(tools) and not subprocess.run([*MOUNTING, "mount -t tmpfs none /mnt"], capture_output=True).returncode


MOUNTING = ("unshare", "--mount", "--map-root-user", "sh", "-ec")


@pytest.mark.skipif(not can_mount(), reason="needs leave to mount a disk of its own; the limit on files above does not")
def test_a_full_disk_ends_the_run_with_its_checkpoint_whole(whole: Out, tmp_path: Path) -> None:
    disk, log, saved = tmp_path / "disk", tmp_path / "log", tmp_path / "saved" / "run"
    disk.mkdir()
    saved.parent.mkdir()
    size = 3 * sum(path.stat().st_size for path in checkpoints(whole)) // 4  # one and a half of them
    command = shlex.join(fresh(disk / "run", log))
    script = f"mount -t tmpfs -o size={size} none {disk}; {command} || code=$?; cp -r {disk}/run {saved}; exit $code"
    done = subprocess.run([*MOUNTING, script])
    *epochs, last = log.read_text().splitlines()
    assert done.returncode == 2, log.read_text()
    assert all(line.startswith("{") for line in epochs)
    assert last.startswith(f"offramp: {disk / 'run' / 'checkpoints' / 'step-00000008'}")
    assert last.endswith("cannot be written (No space left on device); check the folder and the disk")
    assert steps_saved(saved) == [4]
    assert unfinished(saved) == []
    assert resume(saved) == []
    check_same(saved, whole)


def test_a_folder_that_turns_read_only_ends_the_run_with_its_checkpoint_whole(whole: Out, tmp_path: Path) -> None:
    training = Training.stopped_at("step 6", tmp_path / "run")
    folder = training.out / "checkpoints"
    folder.chmod(0o555)
    training.go_on()
    assert training.complaint().endswith("cannot be written (Permission denied); check the folder and the disk")
    folder.chmod(0o755)
    assert steps_saved(training.out) == [4]
    assert resume(training.out) == []
    check_same(training.out, whole)


def read_only(folder: Path) -> Path:
    folder.mkdir(mode=0o555)
    return folder


def taken(place: Path) -> Path:
    place.touch()
    return place


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        (lambda place: read_only(place / "run"), "Permission denied"),
        (lambda place: read_only(place / "runs") / "run", "Permission denied"),
        (lambda place: taken(place / "run"), "File exists"),
        (lambda place: taken(place / "file") / "run", "Not a directory"),
        (lambda _: Path("/proc/run"), "No such file or directory"),
    ],
)
def test_a_run_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, out: Callable[[Path], Path], reason: str
) -> None:
    place = out(tmp_path)
    training = Training(tmp_path / "log", "--out", place)
    assert training.complaint() == f"{place}: cannot be written ({reason}); check its permissions"


@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_a_run_folder_that_cannot_be_read_is_refused(tmp_path: Path, more: list[str]) -> None:
    place = tmp_path / "run"
    place.mkdir(mode=0)
    assert Training(place, *more).complaint() == f"{place}: cannot be read (Permission denied); check its permissions"


# ---- damaged


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    place = len(content) // 3
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def damage(path: Path, how: Callable[[bytes], bytes]) -> None:
    path.write_bytes(how(path.read_bytes()))


@pytest.mark.parametrize("how", [cut, flip], ids=["cut off", "one bit"])
def test_a_damaged_checkpoint_is_said_and_the_one_before_leads_to_the_same_weights(
    whole: Out, half_way: Out, how: Callable[[bytes], bytes]
) -> None:
    damage(checkpoints(half_way)[-1], how)
    assert resume(half_way) == [
        "step-00000008: the checkpoint is damaged (its checksum differs); going back to the one before"
    ]
    check_same(half_way, whole)


def test_where_all_checkpoints_are_damaged_nothing_is_trained(half_way: Out) -> None:
    for path, how in zip(checkpoints(half_way), (cut, flip), strict=True):
        damage(path, how)
    message = Training(half_way, "--resume").complaint()
    assert message == f"{half_way / 'checkpoints'}: all checkpoints are damaged; start the run anew"
    assert steps_saved(half_way) == [4, 8]
    assert len(losses(half_way)) == 2


# ---- no numbers any more


def test_a_loss_that_is_no_number_ends_the_run_at_its_step_and_exit(tmp_path: Path) -> None:
    soars = [word for one in ("schedule=multistep", "milestones=0.5", "decay=1e20") for word in ("--set", one)]
    training = Training(tmp_path / "run", *soars)
    message = training.complaint()
    assert re.match(r"the loss of exit \d is (nan|inf) at step [78]; the last good checkpoint is kept: lower", message)
    assert steps_saved(training.out) == [4]
    state = Checkpoints(training.out / "checkpoints").load(pytest.fail)
    assert all(tensor.isfinite().all() for tensor in state["net"].values())
    assert not (training.out / "model").exists()
    assert len(losses(training.out)) == 1
