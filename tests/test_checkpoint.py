import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from offramp.errors import ArtifactError
from offramp.train.checkpoint import FORMAT, VERSION, load_checkpoint, save_checkpoint

STATE: dict[str, Any] = {
    "step": 7,
    "recipe": {"epochs": 3, "loss_weights": (1.0, 2.0), "variant": "net"},
    "net": {"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)},
    "average": None,
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "runs" / "last.pt", STATE)
    state = load_checkpoint(tmp_path / "runs" / "last.pt")
    assert (state["format"], state["version"]) == (FORMAT, VERSION)
    assert {key: state[key] for key in ("step", "recipe", "average")} == {
        key: STATE[key] for key in ("step", "recipe", "average")
    }
    for name, tensor in STATE["net"].items():
        assert torch.equal(state["net"][name], tensor)
    assert names(tmp_path / "runs") == ["last.pt"]


def test_the_memory_layout_of_a_tensor_survives(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "file", {"weight": weight})
    assert load_checkpoint(tmp_path / "file")["weight"].stride() == weight.stride()


def test_a_save_that_fails_midway_leaves_the_old_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "file", STATE)

    def fail(_state: object, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "file", STATE | {"step": 8})
    assert load_checkpoint(tmp_path / "file")["step"] == 7
    assert names(tmp_path) == ["file"]


def test_no_checkpoint_is_told_apart_from_a_damaged_one(tmp_path: Path) -> None:
    assert refused(tmp_path / "file").endswith("there is no checkpoint to resume from; leave --resume out")


@pytest.mark.parametrize("kept", [0, 1, 10, 100, 1000, -1])
def test_a_cut_checkpoint_is_refused(tmp_path: Path, kept: int) -> None:
    save_checkpoint(tmp_path / "file", STATE)
    (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:kept])
    assert "the checkpoint is damaged or of another program" in refused(tmp_path / "file")


def test_a_flipped_bit_in_a_weight_is_noticed(tmp_path: Path) -> None:
    weight = torch.randn(500)
    save_checkpoint(tmp_path / "file", {"weight": weight})
    content = bytearray((tmp_path / "file").read_bytes())
    place = content.index(weight.numpy().tobytes()) + 777
    content[place] ^= 1
    (tmp_path / "file").write_bytes(bytes(content))
    assert "the checkpoint is damaged" in refused(tmp_path / "file")


def test_damage_anywhere_is_refused_or_harmless(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "file", STATE)
    whole = (tmp_path / "file").read_bytes()
    for place in range(0, len(whole), 29):
        (tmp_path / "file").write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            state = load_checkpoint(tmp_path / "file")
        except ArtifactError as error:
            assert "\n" not in str(error)
        else:
            assert torch.equal(state["net"]["weight"], STATE["net"]["weight"])


@pytest.mark.parametrize("content", [b"", b"hello world", b"[]", b"PK\x03\x04", b"\x80\x02.", b'{"step": 1}'])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert "the checkpoint is damaged or of another program" in refused(tmp_path / "file")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "the checkpoint is damaged or of another program (IsADirectoryError)" in refused(tmp_path)


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
def test_a_foreign_or_newer_checkpoint_is_refused(tmp_path: Path, value: object, message: str) -> None:
    torch.save(value, tmp_path / "file")
    assert message in refused(tmp_path / "file")


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("packed", ["as torch does", "as plain pickle"])
def test_code_in_a_checkpoint_is_refused_and_never_run(tmp_path: Path, packed: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "file"
    state = {"format": FORMAT, "version": VERSION, "step": Evil(trace)}
    if packed == "as torch does":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state))
    assert "the checkpoint is damaged or of another program" in refused(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Evil(trace)))
    assert trace.exists()  # it would have
