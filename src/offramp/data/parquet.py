"""Folders of Parquet files as the Hugging Face hub lays them out: an image column and an integer label column."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.data.source import Split
from offramp.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import pyarrow as pa


def read_part(
    folder: Path,
    part: Literal["train", "test"],
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
    image = _column(folder, table, ("img", "image"))
    label = _column(folder, table, labels)
    names = _class_names(folder, table.schema, label)
    if names != classes:
        raise DataError(
            f"{folder}: class names {', '.join(names[:3])} … ({len(names)}) are not those of {folder.name}; check the path"
        )
    values = np.asarray(table[label])
    if values.dtype.kind not in "iu" or len(values) == 0 or values.min() < 0 or values.max() >= len(names):
        raise DataError(
            f"{folder}: {len(values)} labels must lie in 0 … {len(names) - 1}; the copy is damaged, get it anew"
        )
    cells = (cell.as_py() for cell in table[image])
    return Split(_decode(folder, part, cells, len(values), size, mode), values.astype(np.int64))


def _read_table(folder: Path, part: str) -> "pa.Table":
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise MissingExtraError(
            "reading Parquet needs pyarrow, which is not installed: pip install 'offramp[data]'"
        ) from None
    files = sorted(folder.glob(f"{part}-*.parquet"))
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
