import errno
import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from offramp.errors import ArtifactError
from offramp.train.checkpoint import FORMAT, KEPT, VERSION, Checkpoints

STATE: dict[str, Any] = {
    "step": 7,
    "recipe": {"epochs": 3, "loss_weights": (1.0, 2.0), "variant": "net"},
    "net": {"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)},
    "average": None,
}


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "run" / "checkpoints")


def nothing_said(message: str) -> None:
    raise AssertionError(message)


def names(kept: Checkpoints) -> list[str]:
    return sorted(path.name for path in kept.folder.iterdir())


def steps(kept: Checkpoints) -> list[int]:
    return [int(path.name[5:13]) for path in kept.files]


def load(kept: Checkpoints) -> tuple[dict[str, Any], list[str]]:
    """The state, and what was said about others."""
    said: list[str] = []
    return kept.load(said.append), said


def refused(kept: Checkpoints) -> str:
    with pytest.raises(ArtifactError) as caught:
        load(kept)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(kept.folder))
    return str(caught.value)


def put(kept: Checkpoints, content: bytes, step: int = 7) -> Path:
    """A file that is what its name says, whatever is in it."""
    kept.folder.mkdir(parents=True, exist_ok=True)
    path = kept.folder / f"step-{step:08d}.{hashlib.sha256(content).hexdigest()}.pt"
    path.write_bytes(content)
    return path


def packed(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_a_state_comes_back_as_it_was_saved(kept: Checkpoints) -> None:
    assert not kept.exists
    path = kept.save(STATE, 7)
    assert kept.exists
    state = kept.load(nothing_said)
    assert (state["format"], state["version"]) == (FORMAT, VERSION)
    assert {key: state[key] for key in ("step", "recipe", "average")} == {
        key: STATE[key] for key in ("step", "recipe", "average")
    }
    for name, tensor in STATE["net"].items():
        assert torch.equal(state["net"][name], tensor)
    assert kept.files == [path]


def test_the_name_carries_the_step_and_the_checksum_of_the_content(kept: Checkpoints) -> None:
    path = kept.save(STATE, 7)
    assert path.name == f"step-00000007.{hashlib.sha256(path.read_bytes()).hexdigest()}.pt"


def test_the_memory_layout_of_a_tensor_survives(kept: Checkpoints) -> None:
    weight = torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)
    kept.save({"weight": weight}, 1)
    assert kept.load(nothing_said)["weight"].stride() == weight.stride()


def test_the_newest_and_one_to_fall_back_on_are_kept(kept: Checkpoints) -> None:
    for step in (4, 8, 100_000, 12_000_000):
        kept.save(STATE | {"step": step}, step)
        assert kept.load(nothing_said)["step"] == step
    assert KEPT == 2
    assert steps(kept) == [100_000, 12_000_000]
    assert len(names(kept)) == 2


def test_the_same_state_of_the_same_step_is_one_checkpoint(kept: Checkpoints) -> None:
    kept.save(STATE, 4)
    for _ in range(3):
        kept.save(STATE, 7)
    assert steps(kept) == [4, 7]


def test_a_second_state_of_the_same_step_replaces_the_first_and_not_the_one_before(kept: Checkpoints) -> None:
    for step, seconds in ((4, 1.0), (7, 2.0), (7, 3.0)):
        kept.save(STATE | {"seconds": seconds}, step)
    assert steps(kept) == [4, 7]
    assert kept.load(nothing_said)["seconds"] == 3


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_save_that_fails_midway_leaves_the_old_checkpoints_and_nothing_else(
    kept: Checkpoints, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    for step in (3, 7):
        kept.save(STATE | {"step": step}, step)
    before = names(kept)

    def fail(_handle: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ArtifactError if isinstance(error, OSError) else KeyboardInterrupt):
        kept.save(STATE | {"step": 8}, 8)
    assert names(kept) == before
    assert kept.load(nothing_said)["step"] == 7


def test_where_there_is_no_checkpoint_none_is_loaded(kept: Checkpoints) -> None:
    assert refused(kept).endswith("there is no checkpoint to resume from; leave --resume out")
    kept.folder.mkdir(parents=True)
    for other in ("step-00000001.pt", "last.pt", f".step-00000001.{'0' * 64}.pt.tmp"):
        (kept.folder / other).touch()
    assert refused(kept).endswith("there is no checkpoint to resume from; leave --resume out")
    assert not kept.exists


def cut(length: int) -> Any:
    return lambda content: content[:length]


def flip(place: int) -> Any:
    return lambda content: content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage", [*map(cut, (0, 1, 10, 100, 1000, -1)), *map(flip, range(0, 1500, 130)), lambda content: content + b"\0"]
)
def test_a_damaged_checkpoint_is_passed_over_and_said(kept: Checkpoints, damage: Any) -> None:
    kept.save(STATE | {"step": 4}, 4)
    newest = kept.save(STATE | {"step": 8}, 8)
    newest.write_bytes(damage(newest.read_bytes()))
    state, said = load(kept)
    assert state["step"] == 4
    assert said == [
        "step-00000008: the checkpoint is damaged (its checksum differs); going back to the one before"
    ]  # fmt: skip


def test_when_all_are_damaged_that_is_said(kept: Checkpoints) -> None:
    for step in (4, 8):
        kept.save(STATE, step).write_bytes(b"PK\x03\x04")
    said: list[str] = []
    with pytest.raises(ArtifactError, match="all checkpoints are damaged; start the run anew"):
        kept.load(said.append)
    assert [line[:13] for line in said] == ["step-00000008", "step-00000004"]


def test_a_damaged_checkpoint_is_no_longer_counted_once_the_run_has_gone_on(kept: Checkpoints) -> None:
    kept.save(STATE | {"step": 4}, 4)
    kept.save(STATE | {"step": 8}, 8).write_bytes(b"damaged")
    kept.save(STATE | {"step": 6}, 6)
    assert steps(kept) == [4, 6]
    assert kept.load(nothing_said)["step"] == 6


def test_a_folder_in_the_place_of_a_checkpoint_is_refused(kept: Checkpoints) -> None:
    (kept.folder / f"step-00000001.{'0' * 64}.pt").mkdir(parents=True)
    assert "cannot be read (Is a directory)" in refused(kept)


@pytest.mark.parametrize("content", [b"", b"hello world", b"[]", b"PK\x03\x04", b"\x80\x02.", b'{"step": 1}'])
def test_a_file_of_another_kind_is_refused(kept: Checkpoints, content: bytes) -> None:
    put(kept, content)
    assert "not an offramp checkpoint" in refused(kept)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "not an offramp checkpoint; check the path"),
        ({"state_dict": {}}, "format None is not 'offramp-checkpoint'; check the path"),
        ({"format": "other", "version": 1}, "format 'other' is not 'offramp-checkpoint'"),
        (
            {"format": FORMAT, "version": VERSION + 1},
            f"offramp-checkpoint version {VERSION + 1} is newer than this offramp understands ({VERSION})",
        ),
    ],
)
def test_a_foreign_or_newer_checkpoint_is_refused(kept: Checkpoints, value: object, message: str) -> None:
    put(kept, packed(value))
    assert message in refused(kept)


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("how", ["as torch does", "as plain pickle"])
def test_code_in_a_checkpoint_is_refused_and_never_run(kept: Checkpoints, tmp_path: Path, how: str) -> None:
    trace = tmp_path / "trace"
    state = {"format": FORMAT, "version": VERSION, "step": Evil(trace)}
    put(kept, packed(state) if how == "as torch does" else pickle.dumps(state))
    assert "not an offramp checkpoint" in refused(kept)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Evil(trace)))
    assert trace.exists()  # it would have
