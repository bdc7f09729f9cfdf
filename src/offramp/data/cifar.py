"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009).

Each is read from ``data_root/NAME``, or else from ``data_root`` itself, in the first of these forms that is there:

1. Parquet files, ``train-*.parquet`` and ``test-*.parquet``;
2. the official Python batches, in a folder ``cifar-10-batches-py`` or ``cifar-100-python``, or lying there bare;
3. the official archive ``cifar-10-python.tar.gz`` or ``cifar-100-python.tar.gz``, which is read without unpacking it.

All have their images in the same order, so a hold-out holds the same images whichever is read. In ``data_root`` itself
Parquet files count only if it has the data set's name: others lie in folders of any name.
"""

import gzip
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.parquet import has_parquet, read_part
from offramp.data.preprocess import Preprocessing
from offramp.data.source import Part, SourceSpec, Split
from offramp.data.unpickle import load_plain
from offramp.errors import DataError

CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
    forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
    mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree
    wolf woman worm
"""
_BYTES_PER_IMAGE = 3 * 32 * 32


@dataclass(frozen=True)
class Batches:
    """The official files of one of the two data sets."""

    title: str
    folder: str
    archive: str
    parts: dict[Part, tuple[str, ...]]
    """Files of each part, in the order of their images."""
    meta: str
    """File with the names of the classes."""
    signs: tuple[str, ...]
    """Files that tell a bare folder."""
    labels: str
    """Key of the labels in a batch."""
    names: str
    """Key of the class names in ``meta``."""

    def lie_in(self, place: Path) -> Path | None:
        """The folder or archive in ``place`` that holds them."""
        if (place / self.folder).is_dir():
            return place / self.folder
        if all((place / sign).is_file() for sign in self.signs):
            return place
        return place / self.archive if (place / self.archive).is_file() else None

    def read(self, holder: Path, part: Part, classes: tuple[str, ...], remedy: str) -> Split:
        """The images of one part.

        Args:
            holder: the folder or archive.
            part: official part of the data set.
            classes: names the files must give the labels if they name them, (C,).
            remedy: what errors advise.

        Raises:
            DataError: a file is missing, damaged, or not what it should be.
        """
        wanted = self.parts[part]
        load = _from_folder if holder.is_dir() else _from_archive
        found = load(holder, (*wanted, self.meta), self.folder, remedy)
        if self.meta in found:
            self._check_names(holder, found[self.meta], classes, remedy)
        missing = [file for file in wanted if file not in found]
        if missing:
            raise DataError(f"{holder}: has no {missing[0]}; {remedy}")
        batches = [self._batch(f"{holder}/{file}", found[file], len(classes), remedy) for file in wanted]
        images, labels = zip(*batches, strict=True)
        return Split(np.concatenate(images), np.concatenate(labels))

    def _check_names(self, holder: Path, fields: dict[str, Any], classes: tuple[str, ...], remedy: str) -> None:
        names = fields.get(self.names)
        listed = names if isinstance(names, list) else []
        found = tuple(name.decode("latin1") if isinstance(name, bytes) else str(name) for name in listed)
        if found != classes:
            place = next((k for k, (one, other) in enumerate(zip(found, classes, strict=False)) if one != other), None)
            said = f"{len(found)} class names" if place is None else f"class {place} is '{found[place]}'"
            wanted = len(classes) if place is None else f"'{classes[place]}'"
            raise DataError(f"{holder}/{self.meta}: {said}, wanted {wanted} as in {self.title}; {remedy}")

    def _batch(
        self, place: str, fields: dict[str, Any], classes: int, remedy: str
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        rows: Any = fields.get("data")
        right = isinstance(rows, np.ndarray) and rows.dtype == np.uint8 and rows.shape[1:] == (_BYTES_PER_IMAGE,)
        if not right or rows.size == 0:
            kind = f"{rows.dtype} of shape {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
            raise DataError(
                f"{place}: data is {kind}, wanted uint8 (N, {_BYTES_PER_IMAGE}): three 32x32 planes; {remedy}"
            )
        labels = _whole_numbers(fields.get(self.labels))
        if labels.shape != rows.shape[:1]:
            raise DataError(f"{place}: wanted {len(rows)} whole numbers as '{self.labels}', one per image; {remedy}")
        wrong = labels[(labels < 0) | (labels >= classes)]
        if len(wrong):
            raise DataError(f"{place}: label {wrong[0]}: must lie in 0 … {classes - 1}; {remedy}")
        return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _whole_numbers(values: Any) -> NDArray[np.int64]:
    """The values if they are a row of numbers that fit, else none."""
    listed = values.tolist() if isinstance(values, np.ndarray) else values
    whole = isinstance(listed, list) and all(
        isinstance(one, int | np.integer) and abs(int(one)) < 1 << 31 for one in listed
    )
    return np.array(listed if whole else (), np.int64)


def _from_folder(holder: Path, wanted: tuple[str, ...], _folder: str, remedy: str) -> dict[str, dict[str, Any]]:
    found = {}
    for name in wanted:
        try:
            with (holder / name).open("rb") as file:
                found[name] = load_plain(file, f"{holder / name}", remedy)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(f"{holder / name}: cannot be read ({error.strerror}); {remedy}") from None
    return found


def _from_archive(holder: Path, wanted: tuple[str, ...], folder: str, remedy: str) -> dict[str, dict[str, Any]]:
    found = {}
    try:
        with gzip.open(holder) as unzipped:
            with tarfile.open(fileobj=unzipped, mode="r:") as archive:
                for member in archive:
                    name = PurePosixPath(member.name).name
                    file = archive.extractfile(member) if member.isfile() and name in wanted else None
                    if file is not None and PurePosixPath(member.name).parent.name == folder:
                        found[name] = load_plain(file, f"{holder}/{name}", remedy)
            while unzipped.read(1 << 20):  # only the end of a gzip stream says whether what came before is sound
                pass
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{holder}: is not a whole archive ({type(error).__name__}); {remedy}") from None
    return found


BATCHES = {
    "cifar10": Batches(
        "CIFAR-10",
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
        meta="batches.meta",
        signs=("data_batch_1",),
        labels="labels",
        names="label_names",
    ),
    "cifar100": Batches(
        "CIFAR-100",
        "cifar-100-python",
        "cifar-100-python.tar.gz",
        {"train": ("train",), "test": ("test",)},
        meta="meta",
        signs=("train", "test", "meta"),
        labels="fine_labels",
        names="fine_label_names",
    ),
}


def _source(name: str, class_names: str, mean: tuple[float, ...], std: tuple[float, ...]) -> SourceSpec:
    classes = tuple(class_names.split())
    batches = BATCHES[name]

    def read(root: Path | None, part: Part) -> Split:
        root = root or Path()
        fetch = f"offramp data fetch {name} --data-root {root}"
        for place in (root / name, root):
            if name in (place.name, place.resolve().name) and (has_parquet(place) or any(place.glob("test-*.parquet"))):
                return read_part(place, part, classes, labels=("label", "fine_label"), size=32, mode="RGB")
            holder = batches.lie_in(place)
            if holder is not None:
                # What is fetched comes to lie in root/NAME, where a folder of batches would still be read before it.
                shadows = place != root and holder.is_dir()
                remedy = f"move {holder} away and get it anew: {fetch}" if shadows else f"get it anew: {fetch}"
                return batches.read(holder, part, classes, remedy)
        raise DataError(
            f"{root / name}: no {batches.title} there, neither Parquet files (train-*.parquet), nor {batches.folder}, "
            f"nor {batches.archive}; check --data-root, or get it: {fetch}"
        )

    return SourceSpec(name, classes, Preprocessing(32, mean, std), holdout=5000, needs_root=True, read=read)


SOURCES = {
    "cifar10": _source("cifar10", CIFAR10_CLASSES, (0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616)),
    "cifar100": _source("cifar100", CIFAR100_CLASSES, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
