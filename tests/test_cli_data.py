import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offramp.data.cifar import CIFAR10_CLASSES
from pictures import write_classes, write_picture, write_truncated, write_turned
from published import write_cifar, write_idx, write_small_cifar
from tiny import offramp

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of a dozen good pictures each, of all sorts, and six that are not good."""
    root = tmp_path / "pets"
    write_classes(root / "train", cat=10, dog=12)
    write_classes(root / "test", cat=2, dog=2)
    train = root / "train"
    write_turned(train / "cat" / "turned.png", size=(20, 10))
    write_picture(train / "cat" / "deep.png", mode="I;16")
    write_picture(train / "dog" / "clear.png", mode="RGBA")
    write_truncated(train / "dog" / "half.jpg")
    (train / "dog" / "text.jpg").write_text("I am no image")
    (train / "cat" / "zero.png").touch()
    write_picture(train / "cat" / "giant.png", size=(120, 100))
    shutil.copy(train / "cat" / "0.png", train / "cat" / "again.png")
    shutil.copy(train / "cat" / "1.png", train / "dog" / "wrong.png")
    shutil.copy(train / "dog" / "2.png", root / "test" / "dog" / "seen.png")
    (train / ".DS_Store").touch()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    return root


def check(capsys: Capture, *arguments: object) -> list[str]:
    """What the command says; it has nothing to say on stderr."""
    assert offramp("data", "check", *arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return [" ".join(line.split()) for line in out.splitlines()]


def test_a_damaged_folder_is_laid_open(damaged: Path, capsys: Capture) -> None:
    lines = check(capsys, damaged, "--workers", 0)
    train, test = damaged / "train", damaged / "test"
    assert f"{damaged}: 2 classes" in lines
    assert "train 31 4 13 / 14 / 14 12x10 / 12x10 / 10x20 RGB 25, I;16 1, RGBA 1" in lines
    assert "test 5 0 2 / 3 / 3 12x10 RGB 5" in lines
    assert "dog 14 3" in lines
    assert "cat 13 2" in lines
    at = lines.index("problems: 4")
    assert lines[at + 1].startswith("1. 4 images that cannot be read")
    assert [line.partition(" (")[0] for line in lines[at + 2 : at + 6]] == [
        f"{train / 'cat' / 'giant.png'}: Image size",
        f"{train / 'cat' / 'zero.png'}: not an image Pillow can read; give JPEG, PNG, WebP or the like",
        f"{train / 'dog' / 'half.jpg'}: cannot be decoded",
        f"{train / 'dog' / 'text.jpg'}: not an image Pillow can read; give JPEG, PNG, WebP or the like",
    ]
    assert lines[at + 6 : at + 12] == [
        "2. 1 test image that training sees too: the test's figures will flatter:",
        f"train: {train / 'dog' / '2.png'} (dog) = test: {test / 'dog' / 'seen.png'} (dog)",
        "3. 1 group of equal images with different labels:",
        f"train: {train / 'cat' / '1.png'} (cat) = train: {train / 'dog' / 'wrong.png'} (dog)",
        "4. 1 group of equal images; one may be trained on and another held out:",
        f"train: {train / 'cat' / '0.png'} (cat) = train: {train / 'cat' / 'again.png'} (cat)",
    ]
    assert "set aside of the training part for calibration: 3 images" in lines
    assert lines[-1] == f"next: offramp train finetune --init cifar10 --data {damaged} --on-bad-image skip"


def test_json_says_the_same_for_machines(damaged: Path, capsys: Capture) -> None:
    assert offramp("data", "check", damaged, "--workers", 0, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["images"] == {"train": 31, "test": 5}
    assert values["classes"] == {"cat": {"train": 13, "test": 2}, "dog": {"train": 14, "test": 3}}
    unreadable = [Path(one["image"]).name for one in values["unreadable"]]
    assert unreadable == ["giant.png", "zero.png", "half.jpg", "text.jpg"]
    assert [problem["kind"] for problem in values["problems"]] == ["unreadable", "leak", "labels", "duplicates"]
    assert values["holdout"] == 3
    assert values["suggestion"]["recipe"] == "finetune"


def test_workers_find_what_one_process_finds(tmp_path: Path, capsys: Capture) -> None:
    root = write_classes(tmp_path / "pets", cat=70, dog=70)
    write_truncated(root / "dog" / "half.jpg")
    assert check(capsys, root, "--workers", 2) == check(capsys, root, "--workers", 0)


def without_classes(root: Path) -> None:
    for name in ("cat", "dog"):
        shutil.rmtree(root / name)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: Path(root, "owl").mkdir(), "class 'owl' has no images; add some or remove the folder"),
        (lambda root: write_classes(root, Cat=1), "'Cat' and 'cat' look like two names for one class; merge or rename"),
        (lambda root: (root / "cat" / "notes.txt").touch(), "not an image by its name; move it out of the class folders"),
        (without_classes, "has no folders; put the images of each class into a folder of its name"),
        (lambda root: [file.write_bytes(b"") for file in root.glob("*/*")], "none of its 6 training images can be read"),
        (shutil.rmtree, "no such folder; check the path"),
    ],
)  # fmt: skip
def test_what_makes_training_impossible_is_refused(
    spoil: Callable[[Path], object], message: str, tmp_path: Path, capsys: Capture
) -> None:
    root = write_classes(tmp_path / "pets", cat=3, dog=3)
    spoil(root)
    assert offramp("data", "check", root, "--workers", 0) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("offramp: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_folder_without_a_test_part_is_checked_and_told_so(tmp_path: Path, capsys: Capture) -> None:
    root = write_classes(tmp_path / "pets", cat=12, dog=12)
    lines = check(capsys, root)
    assert any(
        line.startswith(f"no test part: {root}: has no test images; put them into {root}/test/") for line in lines
    )
    assert "problems: none" in lines
    assert lines[-1] == f"next: offramp train finetune --init cifar10 --data {root}"


def test_many_classes_are_told_by_their_ends(tmp_path: Path, capsys: Capture) -> None:
    root = write_classes(tmp_path / "letters", **{f"letter-{number:02d}": 10 + number for number in range(21)})
    lines = check(capsys, root)
    assert "largest classes: letter-20 (30), letter-19 (29), letter-18 (28), letter-17 (27), letter-16 (26)" in lines
    assert "smallest classes: letter-04 (14), letter-03 (13), letter-02 (12), letter-01 (11), letter-00 (10)" in lines
    assert not any(line.startswith("letter-10") for line in lines)


def test_long_lists_are_cut_except_for_unreadable_images(tmp_path: Path, capsys: Capture) -> None:
    root = write_classes(tmp_path / "letters", **{f"letter-{number:02d}": 12 for number in range(2)})
    for number in range(25):
        shutil.copy(root / "letter-00" / "0.png", root / "letter-00" / f"copy-{number}.png")
        (root / "letter-01" / f"zero-{number}.png").touch()
        write_picture(root / f"thin-{number:02d}" / "0.png", 777 + number)
    lines = check(capsys, root, "--workers", 0)
    assert sum("zero-" in line for line in lines) == 25
    assert any(line.endswith("letter-00/copy-1.png (letter-00) = 23 more") for line in lines)
    assert any(
        line.startswith("thin-00 (1), thin-01 (1)") and line.endswith("… and 15 more; --json lists all")
        for line in lines
    )


def test_a_bad_file_whose_name_is_no_unicode_is_told(tmp_path: Path, capsys: Capture) -> None:
    root = write_classes(tmp_path / "pets", cat=12, dog=12)
    (root / "cat" / os.fsdecode(b"caf\xe9.png")).touch()
    assert any("caf\\udce9.png: not an image" in line for line in check(capsys, root, "--workers", 0))
    assert offramp("data", "check", root, "--workers", 0, "--json") == 0
    assert json.loads(capsys.readouterr().out)["unreadable"][0]["image"].endswith("caf\udce9.png")


def test_the_official_files_of_public_sets_are_checked(tmp_path: Path, capsys: Capture) -> None:
    lines = check(capsys, write_small_cifar(tmp_path / "cifar-10-batches-py", "cifar10"))
    assert "train 10 0 1 32x32 RGB 10" in lines
    assert "1. 10 classes with fewer than 10 training images:" in lines
    assert lines[-1] == f"next: offramp train finetune --init cifar10 --data {tmp_path / 'cifar-10-batches-py'}"
    lines = check(capsys, write_idx(tmp_path / "mnist"))
    assert "train 12 0 1 / 1 / 2 28x28 L 12" in lines
    assert "set aside of the training part for calibration: 5,000 images" in lines
    assert "5,000 images would be set aside of 12; choose fewer with --holdout" in lines


def test_a_leak_in_a_set_in_memory_is_found(tmp_path: Path, capsys: Capture) -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), np.uint8)
    folder = write_cifar(tmp_path / "cifar-10-batches-py", "cifar10", (images, range(10)), (images[3:5], [3, 0]))
    lines = check(capsys, folder)
    names = CIFAR10_CLASSES.split()
    assert f"train: image 3 ({names[3]}) = test: image 0 ({names[3]})" in lines
    assert f"train: image 4 ({names[4]}) = test: image 1 ({names[0]})" in lines


def test_progress_counts_the_images(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    root = write_classes(tmp_path / "pets", cat=12, dog=12)
    assert offramp("data", "check", root, "--workers", 0) == 0
    err = capsys.readouterr().err
    assert "looking at the train part" in err
    assert "24/24" in err
