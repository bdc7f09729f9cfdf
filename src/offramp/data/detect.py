"""What kind of data set a folder holds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from offramp.catalog import entries, lookup
from offramp.data.cifar import BATCHES
from offramp.data.folder import folder_source
from offramp.data.idx import has_idx
from offramp.data.parquet import has_parquet, parquet_source
from offramp.data.preprocess import Preprocessing
from offramp.data.source import Part, Samples, SourceSpec
from offramp.data.svhn import has_svhn
from offramp.errors import ConfigError, DataError

_MARKS: dict[str, Callable[[Path], object]] = {
    "cifar10": BATCHES["cifar10"].lie_in,
    "cifar100": BATCHES["cifar100"].lie_in,
    "svhn": has_svhn,
}
"""Data sets that are told by their files, whatever the folder is called."""
_BY_NAME = {"cifar10": has_parquet, "cifar100": has_parquet, "mnist": has_idx, "fashion-mnist": has_idx}
"""Data sets whose files say too little, so that the folder must have their name as well."""


def find_source(path: Path, preprocessing: Preprocessing) -> SourceSpec:
    """The data set in the folder ``path``: Parquet files, a known data set's own files, or class folders.

    Args:
        path: the folder.
        preprocessing: of the model its images are for; known data sets of small images have their own.

    Raises:
        DataError: it holds none of these, or more than one.
    """
    if not path.is_dir():
        raise DataError(f"{path}: {'not a folder' if path.exists() else 'no such folder'}; check the path")
    known = _known(path)
    if known is not None:
        return _at(known, path)
    if has_parquet(path):
        return parquet_source(path, preprocessing)
    if has_idx(path):
        raise DataError(
            f"{path}: IDX files do not say which data set they are; name the folder mnist or fashion-mnist, "
            f"or say which: --data mnist --data-root {path}"
        )
    return folder_source(path, preprocessing)


def is_folder(name: str) -> bool:
    """Whether a data set is named by the path of a folder: with a separator, or that is a folder and no catalog name."""
    return name not in entries("data", "SOURCES") and ("/" in name or Path(name).is_dir())


def named_source(name: str, preprocessing: Preprocessing | None = None) -> SourceSpec:
    """A data set by catalog name, or by the path of a folder.

    Args:
        name: a catalog name, or a path (see :func:`is_folder`).
        preprocessing: for images of folders; see :func:`find_source`.

    Raises:
        ConfigError: neither (near names are offered), or a folder while nothing says how large its images shall be.
    """
    if is_folder(name):
        if preprocessing is None:
            raise ConfigError(f"data '{name}': nothing says how its images are prepared; give a model or a recipe")
        return find_source(Path(name), preprocessing)
    spec: SourceSpec = lookup("data set", name, "data", "SOURCES")
    return spec


def _known(path: Path) -> str | None:
    found = [name for name, holds in _MARKS.items() if holds(path)]
    if len(found) > 1:
        raise DataError(f"{path}: holds {' and '.join(found)}; say which: --data {found[0]} --data-root {path}")
    if found:
        return found[0]
    names = (path.name, path.resolve().name)
    return next((name for name, holds in _BY_NAME.items() if name in names and holds(path)), None)


def _at(name: str, path: Path) -> SourceSpec:
    """The known data set, read from ``path`` itself."""
    spec: SourceSpec = lookup("data set", name, "data", "SOURCES")
    root = path.parent if path.name == name else path

    def read(_root: Path | None, part: Part) -> Samples:
        return spec.read(root, part)

    return replace(spec, needs_root=False, read=read)
