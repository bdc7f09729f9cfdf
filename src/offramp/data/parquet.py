"""Folders of Parquet files as the Hugging Face hub lays them out: an image column and an integer label column."""

import io
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.data.preprocess import Preprocessing
from offramp.data.source import Part, SourceSpec, Split
from offramp.data.streamed import Cells, StreamedSplit
from offramp.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "fine_label", "labels")
_PARTS: dict[Part, tuple[str, ...]] = {"train": ("train",), "test": ("test", "validation", "valid")}


def read_part(
    folder: Path,
    part: Part,
    classes: tuple[str, ...],
    *,
    labels: tuple[str, ...],
    size: int,
    mode: str,
) -> Split:
    """The images of ``folder/part-*.parquet``.

    Args:
        folder: holds the files, e.g. ``cifar10``.
        part: official part of the data set.
        classes: names the files must give the labels, (C,).
        labels: names the label column may have.
        size: side in pixels every image must have.
        mode: Pillow colour mode the images are converted to.

    Raises:
        DataError: no such files, no image or label column, other classes, an image that cannot be decoded or has another size.
        MissingExtraError: pyarrow is not installed.
    """
    table = _read_table(folder, part)
    image = _column(folder, table, IMAGE_COLUMNS)
    label = _column(folder, table, labels)
    names = _class_names(folder, table.schema, label)
    if names != classes:
        raise DataError(
            f"{folder}: class names {', '.join(names[:3])} … ({len(names)}) are not those of {folder.name}; check the path"
        )
    values = _labels(folder, table, label, len(names))
    cells = (cell.as_py() for cell in table[image])
    return Split(_decode(folder, part, cells, len(values), size, mode), values)


def parquet_source(folder: Path, preprocessing: Preprocessing) -> SourceSpec:
    """Any data set in this layout: classes from the schema, images decoded when they are needed.

    Raises:
        DataError: no training files, or no image and label columns.
        MissingExtraError: pyarrow is not installed.
    """

    @cache
    def table_of(part: Part) -> "pa.Table":
        found = next((name for name in _PARTS[part] if any(_files(folder, name))), _PARTS[part][0])
        return _read_table(folder, found)

    training = table_of("train")
    label = _column(folder, training, LABEL_COLUMNS)
    classes = _class_names(folder, training.schema, label)

    def read(_root: Path | None, part: Part) -> StreamedSplit:
        table = table_of(part)
        values = _labels(folder, table, label, len(classes))
        return StreamedSplit(Cells(f"{folder}: {part}", table[_column(folder, table, IMAGE_COLUMNS)]), values)

    holdout = max(1, len(training) // 10)
    has_test = any(_files(folder, name) for name in _PARTS["test"])
    name = folder.resolve().name
    return SourceSpec(name, classes, preprocessing, holdout, needs_root=False, read=read, has_test=has_test)


def has_parquet(folder: Path) -> bool:
    """Whether training files in this layout are there."""
    return any(_files(folder, "train"))


def _files(folder: Path, part: str) -> list[Path]:
    return sorted(folder.glob(f"{part}-*.parquet")) or sorted((folder / "data").glob(f"{part}-*.parquet"))


def _labels(folder: Path, table: "pa.Table", column: str, classes: int) -> NDArray[np.int64]:
    values = np.asarray(table[column])
    if values.dtype.kind not in "iu" or len(values) == 0 or values.min() < 0 or values.max() >= classes:
        raise DataError(
            f"{folder}: {len(values)} labels must lie in 0 … {classes - 1}; the copy is damaged, get it anew"
        )
    return values.astype(np.int64)


def _read_table(folder: Path, part: str) -> "pa.Table":
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise MissingExtraError(
            "reading Parquet needs pyarrow, which is not installed: pip install 'offramp[data]'"
        ) from None
    files = _files(folder, part)
    if not files:
        raise DataError(
            f"{folder}: no {part}-*.parquet there; check --data-root (it is the folder above {folder.name})"
        )
    try:
        return pa.concat_tables([pq.read_table(file) for file in files])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{folder}: {part}-*.parquet cannot be read ({error}); get the files anew") from None


def _column(folder: Path, table: "pa.Table", names: tuple[str, ...]) -> str:
    for name in names:
        if name in table.column_names:
            return name
    raise DataError(f"{folder}: columns {', '.join(table.column_names)}, wanted {' or '.join(names)}; check the path")


def _class_names(folder: Path, schema: "pa.Schema", label_column: str) -> tuple[str, ...]:
    try:
        info: dict[str, Any] = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(info["info"]["features"][label_column]["names"])
    except (KeyError, ValueError, TypeError):
        raise DataError(
            f"{folder}: no class names for column '{label_column}' in the schema; write it with Hugging Face datasets"
        ) from None


def _decode(
    folder: Path, part: str, cells: Iterable[dict[str, Any]], count: int, size: int, mode: str
) -> NDArray[np.uint8]:
    out = np.empty((count, size, size, len(mode)), np.uint8)
    for row, cell in enumerate(cells):
        try:
            with Image.open(io.BytesIO(cell["bytes"])) as image:
                pixels = np.asarray(image.convert(mode))
        except (KeyError, OSError, SyntaxError, TypeError, ValueError) as error:
            raise DataError(f"{folder}: {part} image {row} cannot be decoded ({error}); get the files anew") from None
        if pixels.shape[:2] != (size, size):
            raise DataError(
                f"{folder}: {part} image {row} is {pixels.shape[1]}x{pixels.shape[0]}, wanted {size}x{size}"
            )
        out[row] = pixels.reshape(size, size, -1)
    return out
