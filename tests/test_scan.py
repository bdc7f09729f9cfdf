import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offramp.data.duplicates import Copy, Duplicates, find_duplicates
from offramp.data.scan import Finding, Scanned, scan, without_unreadable
from offramp.data.source import Split
from offramp.data.streamed import Files, StreamedSplit
from offramp.data.workers import Workers
from pictures import write_picture, write_truncated, write_turned
from tiny import read_halves

HERE = Workers(0)


def streamed(root: Path, *names: str) -> StreamedSplit:
    return StreamedSplit(Files.of(root, list(names)), np.arange(len(names)))


def test_size_and_mode_are_told_as_stored_and_upright(tmp_path: Path) -> None:
    write_picture(tmp_path / "rgb.jpg", size=(12, 10))
    write_picture(tmp_path / "rgba.png", mode="RGBA")
    write_picture(tmp_path / "deep.png", size=(9, 5), mode="I;16")
    write_picture(tmp_path / "palette.gif", mode="P")
    write_turned(tmp_path / "turned.png", size=(12, 10))
    found = scan(streamed(tmp_path, "rgb.jpg", "rgba.png", "deep.png", "palette.gif", "turned.png"), HERE)
    assert [finding.problem for finding in found] == [""] * 5
    assert [(finding.size, finding.mode) for finding in found] == [
        ((12, 10), "RGB"), ((12, 10), "RGBA"), ((9, 5), "I;16"), ((12, 10), "P"), ((10, 12), "RGB"),
    ]  # fmt: skip


@pytest.mark.parametrize("count", [0, 2])
def test_what_cannot_be_read_is_told_with_path_and_reason_and_the_rest_goes_on(count: int, tmp_path: Path) -> None:
    write_picture(tmp_path / "good.png")
    write_truncated(tmp_path / "half.jpg")
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").touch()
    names = ["half.jpg", "good.png", "text.jpg", "empty.png", "gone.png"]
    found = scan(streamed(tmp_path, *names), Workers(count))
    assert [finding.name for finding in found] == [str(tmp_path / name) for name in names]
    reasons = ("cannot be decoded (image file is truncated", "", "not an image", "not an image", "no such file")
    for name, finding, reason in zip(names, found, reasons, strict=True):
        assert finding.problem.startswith(f"{tmp_path / name}: {reason}" if reason else "")
        assert bool(finding.problem) == bool(reason) == (finding.size == (0, 0))


def test_an_image_of_too_many_pixels_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picture(tmp_path / "large.png", size=(12, 10))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 119)  # read, with a warning that nobody needs here
    assert scan(streamed(tmp_path, "large.png"), HERE)[0].problem == ""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 59)
    assert "(120 pixels) exceeds limit of 118 pixels" in scan(streamed(tmp_path, "large.png"), HERE)[0].problem


def test_images_come_in_order_and_progress_runs_to_the_last(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(150)]
    for number, name in enumerate(names):
        write_picture(tmp_path / name, number, size=(4 + number % 7, 4))
    told: list[int] = []
    found = scan(streamed(tmp_path, *names), Workers(2), told.append)
    assert [finding.row for finding in found] == list(range(150))
    assert [finding.size[0] for finding in found] == [4 + number % 7 for number in range(150)]
    assert told == sorted(told)
    assert (len(told), told[-1]) == (3, 150)


def test_a_set_in_memory_is_looked_at_too() -> None:
    split = read_halves(None, "test")
    doubled = Split(np.concatenate([split.images, split.images[:1]]), np.append(split.labels, 3))
    found = scan(doubled, Workers(2))
    assert {(finding.size, finding.mode, finding.problem) for finding in found} == {((16, 16), "L", "")}
    assert found[0].digest == found[-1].digest == hashlib.sha256(split.images[0].tobytes()).digest()
    assert len({finding.digest for finding in found}) == 48


def test_what_was_seen_is_summed_up() -> None:
    findings = [
        Finding(0, "a", (40, 10), "RGB", b"a"),
        Finding(1, "b", problem="b: damaged"),
        Finding(2, "c", (10, 20), "L", b"c"),
        Finding(3, "d", (30, 30), "RGB", b"d"),
    ]
    scanned = Scanned(np.array([2, 0, 0, 2]), findings)
    assert [finding.name for finding in scanned.readable] == ["a", "c", "d"]
    assert [finding.name for finding in scanned.unreadable] == ["b"]
    assert scanned.per_class(4) == [1, 0, 2, 0]
    assert scanned.sizes() == {"smallest": (10, 20), "median": (30, 20), "largest": (30, 30)}
    assert scanned.modes() == {"RGB": 2, "L": 1}
    assert Scanned(np.array([0]), [findings[1]]).sizes() == {}


def test_equal_files_are_found_across_classes_and_parts(tmp_path: Path) -> None:
    for number in range(4):
        write_picture(tmp_path / f"{number}.png", number)
    shutil.copy(tmp_path / "1.png", tmp_path / "copy.png")
    train = Scanned(np.array([0, 1, 0]), scan(streamed(tmp_path, "0.png", "1.png", "copy.png"), HERE))
    test = Scanned(np.array([1, 0, 1]), scan(streamed(tmp_path, "2.png", "0.png", "3.png"), HERE))
    first, second = find_duplicates({"train": train, "test": test}, ("cat", "dog"))
    zero, one, copy = (str(tmp_path / f"{name}.png") for name in ("0", "1", "copy"))
    assert first.copies == (Copy("train", zero, "cat"), Copy("test", zero, "cat"))
    assert (first.leak, first.labels_differ) == (True, False)
    assert second.copies == (Copy("train", one, "dog"), Copy("train", copy, "cat"))
    assert (second.leak, second.labels_differ) == (False, True)
    assert str(second) == f"train: {one} (dog) = train: {copy} (cat)"


def test_unreadable_images_are_no_duplicates_of_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").touch()
    scanned = Scanned(np.array([0, 0]), scan(streamed(tmp_path, "a.png", "b.png"), HERE))
    assert find_duplicates({"train": scanned}, ("cat",)) == []


def test_a_long_group_of_duplicates_is_told_short() -> None:
    group = Duplicates(tuple(Copy("train", f"{number}.png", "cat") for number in range(9)))
    assert str(group) == "train: 0.png (cat) = train: 1.png (cat) = train: 2.png (cat) = 6 more"


def test_leaving_out_what_cannot_be_read_keeps_the_rest_and_tells(tmp_path: Path) -> None:
    for name in ("0.png", "2.png", "4.png"):
        write_picture(tmp_path / name, int(name[0]))
    (tmp_path / "1.png").touch()
    write_truncated(tmp_path / "3.jpg")
    told: list[Finding] = []
    kept = without_unreadable(
        streamed(tmp_path, "0.png", "1.png", "2.png", "3.jpg", "4.png"), HERE, told.extend
    )  # fmt: skip
    assert kept.labels.tolist() == [0, 2, 4]
    assert kept.listing() == b"0.png\n2.png\n4.png"
    assert [Path(finding.name).name for finding in told] == ["1.png", "3.jpg"]


def test_nothing_is_told_where_everything_can_be_read(tmp_path: Path) -> None:
    write_picture(tmp_path / "0.png")
    whole = streamed(tmp_path, "0.png")

    def tell(_findings: list[Finding]) -> None:
        raise AssertionError

    assert without_unreadable(whole, HERE, tell) is whole
    in_memory = read_halves(None, "test")
    assert without_unreadable(in_memory, HERE, tell) is in_memory
