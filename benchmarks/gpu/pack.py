"""Packs the Parquet files of a data set into pieces small enough to travel beside a copy of the repository.

Each piece is a plain tar file called NAME.K-of-N.tar. Its first member says which files belong to which piece, and the
SHA-256 of each of its own; `run.sh unpack` puts the files in place on the other machine.
"""

import argparse
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

from offramp.errors import DataError, OfframpError
from offramp_runtime.files import write_atomic

FORMAT, VERSION, LIST = "offramp-data-piece", 1, "piece.json"
INPUTS = Path(__file__).parent / "inputs"
LIMIT_MIB = 48
"""Of a piece. A call's copy of the repository may have 64 MiB, and the repository itself takes 13."""
_TAR_MARGIN = 64 << 10


def main() -> int:
    """Write the pieces and list them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="data set, such as cifar10")
    parser.add_argument("--data-root", type=Path, required=True, help="folder above the data set's own")
    parser.add_argument("--out", type=Path, default=INPUTS)
    parser.add_argument("--limit-mib", type=float, default=LIMIT_MIB, help="largest piece")
    options = parser.parse_args()
    try:
        pieces = pack(options.data_root / options.name, options.out, int(options.limit_mib * (1 << 20)))
    except OfframpError as error:
        sys.stderr.write(f"pack.py: {error}\n")
        return error.exit_code
    for place, piece in enumerate(pieces, 1):
        print(f"{piece}: piece {place} of {len(pieces)}, {piece.stat().st_size / (1 << 20):.1f} MiB")
    return 0


def pack(folder: Path, out: Path, limit: int) -> list[Path]:
    """Pieces of at most ``limit`` bytes with all Parquet files of ``folder``; older pieces of the set are replaced.

    Raises:
        DataError: there are no such files, or one of them alone is too large.
    """
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise DataError(f"{folder}: no Parquet files there; check --data-root (it is the folder above {folder.name})")
    groups = _grouped(files, limit - _TAR_MARGIN)
    for old in out.glob(f"{folder.name}.*-of-*.tar"):
        old.unlink()
    return [_write(folder.name, groups, place, out) for place in range(1, len(groups) + 1)]


def digest(content: bytes) -> str:
    """SHA-256."""
    return hashlib.sha256(content).hexdigest()


def _grouped(files: list[Path], limit: int) -> list[list[Path]]:
    """Each file in the first group that still has room."""
    groups: list[list[Path]] = []
    for file in files:
        size = file.stat().st_size
        if size > limit:
            raise DataError(f"{file}: {size:,} bytes do not fit into a piece of {limit:,}; raise --limit-mib")
        for group in groups:
            if sum(one.stat().st_size for one in group) + size <= limit:
                group.append(file)
                break
        else:
            groups.append([file])
    return groups


def _write(name: str, groups: list[list[Path]], place: int, out: Path) -> Path:
    contents = {file.name: file.read_bytes() for file in groups[place - 1]}
    about = {
        "format": FORMAT, "version": VERSION, "data": name, "piece": place,
        "pieces": [[file.name for file in group] for group in groups],
        "sha256": {file: digest(content) for file, content in contents.items()},
    }  # fmt: skip
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, content in {LIST: json.dumps(about).encode(), **contents}.items():
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    path = out / f"{name}.{place}-of-{len(groups)}.tar"
    write_atomic(path, lambda file: file.write(buffer.getbuffer()))
    return path


if __name__ == "__main__":
    sys.exit(main())
