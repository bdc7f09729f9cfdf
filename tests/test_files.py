import json
import resource
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from offramp.errors import ArtifactError
from offramp_runtime.files import check_format, read_json, write_atomic, write_json, write_text


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """No file may grow beyond 1000 bytes, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_the_folders_above_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "schön\n")
    assert path.read_bytes() == "schön\n".encode()
    assert names(path.parent) == ["c.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_write_that_fails_midway_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def write(file: BinaryIO) -> None:
        file.write(b"half of the n")
        raise error

    with pytest.raises(error):
        write_atomic(path, write)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_file_and_is_one_line(tmp_path: Path, small_files_only: None) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(
        ArtifactError, match=r"file: cannot be written \(File too large\); check the folder and the disk$"
    ):
        write_text(path, "x" * 5000)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_folder_in_the_place_of_the_file_is_one_line_and_stays(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(ArtifactError, match=r"file: cannot be written \(Is a directory\)"):
        write_text(tmp_path / "file", "new")
    assert names(tmp_path) == ["file"]


def test_a_file_in_the_place_of_a_folder_is_one_line(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_text(tmp_path / "file" / "new", "new")


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"

    write_atomic(path, write)
    assert path.read_text() == "new"


def test_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    value = {"format": "plan", "version": 2, "thresholds": [0.1, None], "name": "Ünïcode"}
    write_json(tmp_path / "plan.json", value)
    assert read_json(tmp_path / "plan.json", "plan", 2) == value
    assert read_json(tmp_path / "plan.json", "plan", 3) == value


def test_numbers_that_are_not_json_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "plan.json", {"threshold": float("inf")})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; check the path"),
        (b"", "cannot be read as JSON"),
        (b"{", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[1]", "holds no plan; check the path"),
        (b"{}", "format None is not 'plan'; check the path"),
        (b'{"format": "other", "version": 1}', "format 'other' is not 'plan'"),
        (b'{"format": "plan"}', "format 'plan' is not 'plan'"),
        (b'{"format": "plan", "version": "1"}', "check the path"),
        (
            b'{"format": "plan", "version": 3}',
            "plan version 3 is newer than this offramp understands (2); upgrade offramp",
        ),
    ],
)
def test_a_file_that_is_not_ours_or_too_new_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        read_json(path, "plan", 2)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_folder_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read as JSON"):
        read_json(tmp_path, "plan", 1)


def test_the_same_or_an_older_version_is_accepted(tmp_path: Path) -> None:
    for version in (1, 2):
        check_format(tmp_path, "plan", version, "plan", 2)


def test_the_files_are_readable_by_people(tmp_path: Path) -> None:
    write_json(tmp_path / "file", {"a": [1]})
    text = (tmp_path / "file").read_text()
    assert text == json.dumps({"a": [1]}, indent=2) + "\n"
