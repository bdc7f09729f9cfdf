"""A job's state as files that travel: results to read, and in checked pieces all that going on elsewhere needs."""

import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

from pack import digest

from offramp.errors import ArtifactError
from offramp_runtime.files import read_json, write_atomic, write_json

FORMAT, VERSION, LIST = "offramp-gpu-state", 1, "state.json"
PIECE_BYTES = 15 << 20
MOST_FILES, MOST_BYTES = 8, 64 << 20
"""What may be brought back from the other machine."""
_KEPT = ("recipe.json", "environment.json", "metrics.jsonl", "evaluation.json")
_MODEL = "model"


def keep(name: str, run: Path, out: Path, results: dict[str, Any], piece_bytes: int = PIECE_BYTES) -> list[Path]:
    """Write ``results.json``, the metrics, and the state in pieces with checksums; what was in ``out`` is replaced.

    Args:
        name: of the job.
        run: its folder.
        out: where to write.
        results: what ``results.json`` says.
        piece_bytes: largest piece.

    Raises:
        ArtifactError: more than may be brought back.
    """
    shutil.rmtree(out, ignore_errors=True)
    packed = _packed(run)
    pieces = {
        f"state.tar.{place}": packed[first : first + piece_bytes]
        for place, first in enumerate(range(0, len(packed), piece_bytes), 1)
    }
    for piece, content in pieces.items():
        write_atomic(out / piece, lambda file, content=content: file.write(content))  # type: ignore[misc]
    sums = {piece: digest(content) for piece, content in pieces.items()}
    write_json(out / LIST, {"format": FORMAT, "version": VERSION, "job": name, "sha256": sums})
    write_json(out / "results.json", results)
    if (run / "metrics.jsonl").exists():
        shutil.copyfile(run / "metrics.jsonl", out / "metrics.jsonl")
    files = sorted(out.iterdir())
    total = sum(file.stat().st_size for file in files)
    if len(files) > MOST_FILES or total > MOST_BYTES:
        raise ArtifactError(
            f"{out}: {len(files)} files of {total:,} bytes, and {MOST_FILES} of {MOST_BYTES:,} may be brought back; "
            "fetch the run folder itself"
        )
    return files


def restore(name: str, folder: Path, run: Path) -> None:
    """Make the run folder of a job from what :func:`keep` wrote.

    Raises:
        ArtifactError: a piece is missing or damaged, it is the state of another job, or a run is there already.
    """
    if (run / "checkpoints").exists() or (run / _MODEL).exists():
        raise ArtifactError(f"{run}: holds a run already; go on with it, or move it away first")
    about = read_json(folder / LIST, FORMAT, VERSION)
    if about["job"] != name:
        raise ArtifactError(f"{folder}: is the state of {about['job']}, not of {name}; restore that")
    packed = b"".join(_piece(folder / piece, wanted) for piece, wanted in about["sha256"].items())
    unfinished = run.with_name(f".{run.name}.restoring")
    shutil.rmtree(unfinished, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(unfinished, filter="data")
    shutil.rmtree(run, ignore_errors=True)
    unfinished.rename(run)


def saved(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step-*.pt"))


def _piece(path: Path, wanted: str) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{path}: this piece is missing; send it too and call again") from None
    if digest(content) != wanted:
        raise ArtifactError(f"{path}: is damaged (SHA-256 differs); fetch and send it anew")
    return content


def _packed(run: Path) -> bytes:
    """A tar of the small files and of the model, or of the newest checkpoint where there is none yet."""
    model = run / _MODEL
    state = [model] if (model / "model.json").exists() else saved(run)[-1:]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in [*(run / kept for kept in _KEPT), *state]:
            if path.exists():
                archive.add(path, str(path.relative_to(run)))
    return buffer.getvalue()
