"""Folders of class-named sub-folders, ImageNet's layout among them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from offramp.data.preprocess import Preprocessing, image_suffixes
from offramp.data.source import Part, SourceSpec
from offramp.data.streamed import Files, StreamedSplit
from offramp.errors import DataError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEST_FOLDERS = ("test", "val", "valid", "validation")
"""Names the folder of the test part may have, in the order they are tried."""

_OF_THE_SYSTEM = {"thumbs.db", "desktop.ini", "__macosx"}


def folder_source(root: Path, preprocessing: Preprocessing) -> SourceSpec:
    """The data set in ``root``: ``root/CLASS/*``, or ``root/train/CLASS/*`` beside ``root/test`` (or ``val``).

    Raises:
        DataError: no classes there, an empty class, or two names for one class.
    """
    training = root / "train" if (root / "train").is_dir() else root
    classes = _classes(training)
    check_classes(root, classes)
    if len(classes) < 2:
        raise DataError(
            f"{training}: has one class only, '{classes[0]}'; there must be a folder for each of at least two"
        )

    @cache  # listing a million files takes a while
    def training_part() -> StreamedSplit:
        return read_classes(training, classes)

    places = [root / name for name in TEST_FOLDERS if training != root and (root / name).is_dir()]

    def read(_root: Path | None, part: Part) -> StreamedSplit:
        if part == "train":
            return training_part()
        if not places:
            raise DataError(
                f"{root}: has no test images; put them into {root}/test/CLASS (and the others into {root}/train/CLASS), "
                "or look at the held-out ones: --split calibrate"
            )
        return read_classes(places[0], classes)

    holdout, name = max(1, len(training_part()) // 10), root.resolve().name
    return SourceSpec(name, classes, preprocessing, holdout, needs_root=False, read=read, has_test=bool(places))


def read_classes(place: Path, classes: tuple[str, ...]) -> StreamedSplit:
    """The images of ``place/CLASS`` for each class, in the order of their names; class folders may be missing in a test part.

    Raises:
        DataError: a class nobody trained, an empty class, or a file that is no image by its name.
    """
    strange = [name for name in _classes(place) if name not in classes]
    if strange:
        raise DataError(
            f"{place / strange[0]}: '{strange[0]}' is not a class of the training part; rename or remove the folder"
        )
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if not (place / name).is_dir():
            continue
        found = [str(file.relative_to(place)) for file in _images(place / name)]
        if not found:
            raise DataError(f"{place / name}: class '{name}' has no images; add some or remove the folder")
        names += found
        labels += [label] * len(found)
    return StreamedSplit(Files.of(place, names), np.array(labels, np.int64))


def check_classes(root: Path, classes: tuple[str, ...]) -> None:
    """Refuse names that a person would take for one class.

    Raises:
        DataError: two names differ only in case, or in blanks and underscores between the same words; or a name is that of
            a part of a data set.
    """
    parts = [name for name in classes if name.casefold() in ("train", "training", "testing", *TEST_FOLDERS)]
    if parts:
        raise DataError(
            f"{root / parts[0]}: the name of a part, not of a class; put images into {root}/train/CLASS and "
            f"{root}/test/CLASS, in lower case, or rename the folder"
        )
    plain = sorted((" ".join(name.casefold().replace("_", " ").split()), name) for name in classes)
    for (one, first), (other, second) in pairwise(plain):
        if one == other:
            raise DataError(f"{root}: '{first}' and '{second}' look like two names for one class; merge or rename them")


def _classes(place: Path) -> tuple[str, ...]:
    try:
        names = sorted(entry.name for entry in os.scandir(place) if entry.is_dir() and not _hidden(entry.name))
    except FileNotFoundError:
        raise DataError(f"{place}: no such folder; check the path") from None
    except OSError as error:
        raise DataError(f"{place}: cannot be listed ({error.strerror}); check the path") from None
    if not names:
        raise DataError(
            f"{place}: has no folders; put the images of each class into a folder of its name: {place}/CLASS/*"
        )
    return tuple(names)


def _images(place: Path) -> Iterator[Path]:
    """Every file below, sorted, but for those of the operating system.

    Raises:
        DataError: a file that is no image by its name.
    """
    known = image_suffixes()
    for folder, below, files in os.walk(place, followlinks=True):
        below[:] = sorted(name for name in below if not _hidden(name))
        for name in sorted(files):
            if _hidden(name):
                continue
            file = Path(folder) / name
            if file.suffix.lower() not in known:
                raise DataError(f"{file}: not an image by its name; move it out of the class folders")
            yield file


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _OF_THE_SYSTEM


@dataclass(frozen=True)
class ClassFolders(SourceSpec):
    """A known data set whose classes are the names of its folders."""

    def located(self, data_root: Path | None) -> SourceSpec:
        """The data set in ``data_root/NAME``."""
        found = folder_source((data_root or Path()) / self.name, self.preprocessing)
        return replace(found, name=self.name, holdout=self.holdout)


def _unknown(_root: Path | None, part: Part) -> StreamedSplit:
    raise AssertionError(part)  # located() puts the folder's own reader in place


SOURCES = {
    "imagenet": ClassFolders(
        "imagenet",
        (),
        Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD, resize=256),
        50_000,
        needs_root=True,
        read=_unknown,
    )
}
