"""What travels to a borrowed machine and back: pieces of data, and the state of a job."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from borrowed import Machine, pack, script, write_origin
from offramp.errors import ArtifactError

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_origin(tmp_path_factory.mktemp("origin"))


# ---- inputs


def test_pieces_keep_their_limit_and_put_together_are_the_data(origin: Path, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    told = pack(origin, tmp_path / "packed", 0.5)
    pieces = sorted((tmp_path / "packed").iterdir())
    assert [piece.name for piece in pieces] == ["cifar10.1-of-2.tar", "cifar10.2-of-2.tar"]
    assert all(piece.stat().st_size <= 0.5 * (1 << 20) for piece in pieces)
    assert "piece 2 of 2" in told.stdout

    machine.inputs.mkdir()
    pieces[1].rename(machine.inputs / pieces[1].name)
    assert "cifar10: piece 1 of 2 is missing; send cifar10.1-of-2.tar and call run.sh unpack" in machine.unpack().stdout
    refused = machine.job()
    assert refused.returncode == 2
    assert "piece 1 of 2 is missing" in refused.stderr

    pieces[0].rename(machine.inputs / pieces[0].name)
    assert "cifar10: all pieces are here" in machine.unpack().stdout
    assert list(machine.inputs.iterdir()) == []
    for file in (origin / "cifar10").iterdir():
        assert (machine.data / "cifar10" / file.name).read_bytes() == file.read_bytes()


def test_a_damaged_piece_is_refused_and_nothing_of_it_is_put_in_place(origin: Path, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    pack(origin, machine.inputs, 1)
    piece = machine.inputs / "cifar10.1-of-1.tar"
    content = bytearray(piece.read_bytes())
    content[len(content) // 2] ^= 1
    piece.write_bytes(content)
    told = machine.unpack()
    assert told.returncode == 2
    assert "its files are not those that were packed (SHA-256 differs); pack and send it anew" in told.stderr
    assert not machine.data.exists()


def test_what_is_no_whole_piece_is_refused(origin: Path, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    pack(origin, machine.inputs, 1)
    piece = machine.inputs / "cifar10.1-of-1.tar"
    piece.write_bytes(piece.read_bytes()[:100_000])
    told = machine.unpack()
    assert (told.returncode, machine.data.exists()) == (2, False)
    assert "not a whole piece" in told.stderr


def test_a_file_larger_than_a_piece_and_a_folder_without_files_are_refused(origin: Path, tmp_path: Path) -> None:
    for root, limit, reason in ((origin, 0.1, "do not fit into a piece"), (tmp_path, 1, "no Parquet files there")):
        told = pack(root, tmp_path / "packed", limit)
        assert told.returncode == 2
        assert reason in told.stderr
    assert not (tmp_path / "packed").exists()


def test_a_job_without_data_says_what_to_do(tmp_path: Path) -> None:
    told = Machine(tmp_path).job()
    assert told.returncode == 2
    assert "no piece of cifar10 is in" in told.stderr
    assert len(told.stderr.splitlines()) == 1


# ---- the state that travels


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run with two checkpoints."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "step-00000010.aa.pt").write_bytes(b"old")
    (run / "checkpoints" / "step-00000020.bb.pt").write_bytes(np.random.default_rng(0).bytes(250_000))
    (run / "recipe.json").write_text("{}")
    (run / "metrics.jsonl").write_text("a line\n")
    return run


def test_the_state_comes_back_from_its_pieces(run_folder: Path, tmp_path: Path) -> None:
    state, out = script("state"), tmp_path / "out"
    files = state.keep("cifar10-fast", run_folder, out, {"n": 1}, piece_bytes=100_000)
    assert [file.name for file in files] == [
        "metrics.jsonl", "results.json", "state.json", "state.tar.1", "state.tar.2", "state.tar.3",
    ]  # fmt: skip
    assert all(file.stat().st_size <= 100_000 for file in files)
    state.restore("cifar10-fast", out, tmp_path / "elsewhere" / "run")
    back = tmp_path / "elsewhere" / "run"
    newest = "checkpoints/step-00000020.bb.pt"
    assert {str(path.relative_to(back)) for path in back.rglob("*") if path.is_file()} == {
        newest, "recipe.json", "metrics.jsonl",
    }  # fmt: skip
    assert (back / newest).read_bytes() == (run_folder / newest).read_bytes()


def test_once_there_is_a_model_it_travels_instead_of_the_checkpoint(run_folder: Path, tmp_path: Path) -> None:
    (run_folder / "model").mkdir()
    (run_folder / "model" / "model.json").write_text("{}")
    script("state").keep("cifar10-fast", run_folder, tmp_path / "out", {})
    with tarfile.open(tmp_path / "out" / "state.tar.1") as archive:
        assert archive.getnames() == ["recipe.json", "metrics.jsonl", "model", "model/model.json"]


def test_missing_and_damaged_pieces_other_jobs_and_runs_in_the_way_are_refused(
    run_folder: Path, tmp_path: Path
) -> None:
    state, out, there = script("state"), tmp_path / "out", tmp_path / "there"
    state.keep("cifar10-fast", run_folder, out, {}, piece_bytes=100_000)
    with pytest.raises(ArtifactError, match="holds a run already; go on with it, or move it away first"):
        state.restore("cifar10-fast", out, run_folder)
    with pytest.raises(ArtifactError, match="is the state of cifar10-fast, not of cifar10-paper"):
        state.restore("cifar10-paper", out, there)
    content = (out / "state.tar.2").read_bytes()
    (out / "state.tar.2").write_bytes(content[:-1] + b"!")
    with pytest.raises(ArtifactError, match=r"state\.tar\.2: is damaged \(SHA-256 differs\)"):
        state.restore("cifar10-fast", out, there)
    (out / "state.tar.2").unlink()
    with pytest.raises(ArtifactError, match=r"state\.tar\.2: this piece is missing; send it too and call again"):
        state.restore("cifar10-fast", out, there)
    assert not there.exists()


def test_more_than_may_be_brought_back_is_refused(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"30 files .* and 8 of 67,108,864 may be brought back"):
        script("state").keep("cifar10-fast", run_folder, tmp_path / "out", {}, piece_bytes=10_000)
