"""Puts the pieces that have arrived in place, checks them, and says which are still missing."""

import argparse
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

from pack import FORMAT, INPUTS, LIST, VERSION, digest

from offramp.errors import DataError, OfframpError
from offramp_runtime.files import check_format, read_json, write_atomic, write_json

DATA = Path("runs/gpu/data")


def main() -> int:
    """Unpack whatever is there."""
    parser = argparse.ArgumentParser(prog="run.sh unpack", description=__doc__)
    parser.add_argument("--inputs", type=Path, default=INPUTS)
    parser.add_argument("--data-root", type=Path, default=DATA)
    options = parser.parse_args()
    try:
        for piece in sorted(options.inputs.glob("*.tar")):
            print(f"{piece.name}: {', '.join(unpack(piece, options.data_root))}")
            piece.unlink()
    except OfframpError as error:
        sys.stderr.write(f"run.sh unpack: {error}\n")
        return error.exit_code
    names = sorted(path.parent.name for path in options.data_root.glob(f"*/{LIST}"))
    for name in names:
        print(f"{name}: {'; '.join(missing(options.data_root, name)) or 'all pieces are here'}")
    if not names:
        print(
            f"no pieces in {options.inputs} and no data in {options.data_root}; make some with benchmarks/gpu/pack.py"
        )
    return 0


def unpack(piece: Path, data_root: Path) -> list[str]:
    """Put the files of a piece into ``data_root/NAME``; returns their names.

    Raises:
        DataError: the piece is damaged, or none of ours.
    """
    try:
        with tarfile.open(piece) as archive:
            contents = {member.name: _content(archive, member) for member in archive.getmembers()}
        about: dict[str, Any] = json.loads(contents.pop(LIST))
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise DataError(f"{piece}: not a whole piece ({type(error).__name__}); pack and send it anew") from None
    check_format(piece, about.get("format"), about.get("version"), FORMAT, VERSION)
    if {name: digest(content) for name, content in contents.items()} != about["sha256"]:
        raise DataError(f"{piece}: its files are not those that were packed (SHA-256 differs); pack and send it anew")
    folder = data_root / Path(about["data"]).name
    for name, content in contents.items():
        write_atomic(folder / Path(name).name, lambda file, content=content: file.write(content))  # type: ignore[misc]
    write_json(folder / LIST, about)
    return list(contents)


def missing(data_root: Path, name: str) -> list[str]:
    """One line for each piece of a data set that is not there, none if it is whole.

    Sets that came without pieces count as whole.
    """
    folder = data_root / name
    if not (folder / LIST).exists():
        send = f"pack it with benchmarks/gpu/pack.py {name}, send the pieces, and call run.sh unpack"
        return [] if any(folder.glob("*.parquet")) else [f"no piece of {name} is in {data_root}; {send}"]
    pieces = read_json(folder / LIST, FORMAT, VERSION)["pieces"]
    return [
        f"piece {place} of {len(pieces)} is missing; send {name}.{place}-of-{len(pieces)}.tar and call run.sh unpack"
        for place, files in enumerate(pieces, 1)
        if not all((folder / file).exists() for file in files)
    ]


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    if file is None:
        raise tarfile.TarError(member.name)
    return file.read()


if __name__ == "__main__":
    sys.exit(main())
