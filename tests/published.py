"""Small copies of public data sets, laid out byte for byte as their authors publish them."""

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from offramp.catalog import entries
from offramp.data.cifar import CIFAR10_CLASSES, CIFAR100_CLASSES
from offramp.data.source import Part, SourceSpec, Split
from offramp.errors import DataError

SOURCES: dict[str, SourceSpec] = entries("data", "SOURCES")
ARCHIVES = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}
CIFAR = {
    "cifar10": (
        "cifar-10-batches-py",
        [f"data_batch_{number}" for number in range(1, 6)],
        "test_batch",
        "batches.meta",
    ),
    "cifar100": ("cifar-100-python", ["train"], "test", "meta"),
}
"""Folder, training files, test file, and file of class names."""


def python2_pickle(value: Any) -> bytes:
    """What Python 2's cPickle and NumPy of 2009 write with protocol 2; all text is made of bytes."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value: Any) -> bytes:
    if isinstance(value, dict):
        return b"}(" + b"".join(_opcodes(key) + _opcodes(one) for key, one in value.items()) + b"u"
    if isinstance(value, list | tuple):
        start, end = (b"](", b"e") if isinstance(value, list) else (b"(", b"t")
        return start + b"".join(map(_opcodes, value)) + end
    if isinstance(value, np.ndarray):
        return _array_opcodes(value)
    if value is None:
        return b"N"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    text = value.encode() if isinstance(value, str) else bytes(value)
    return (b"U" + bytes([len(text)]) if len(text) < 256 else b"T" + struct.pack("<i", len(text))) + text


def _array_opcodes(array: NDArray[Any]) -> bytes:
    kind = array.dtype.str
    made = b"cnumpy\ndtype\n" + _opcodes((kind[1:], 0, 1)) + b"R"
    made += b"(K\x03" + _opcodes(kind[0]) + b"NNN" + _opcodes(-1) * 2 + b"K\x00tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + _opcodes((0,)) + _opcodes("b") + b"tR"
    return empty + b"(K\x01" + _opcodes(array.shape) + made + b"\x89" + _opcodes(array.tobytes()) + b"tb"


def cifar_images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise (N, 32, 32, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def cifar_batch(name: str, images: NDArray[np.uint8], labels: list[int]) -> dict[str, Any]:
    """The fields of one batch."""
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    files = [f"image_{row}.png" for row in range(len(labels))]
    if name == "cifar10":
        return {"batch_label": "a batch", "labels": labels, "data": rows, "filenames": files}
    coarse = [label // 5 for label in labels]
    return {"filenames": files, "batch_label": "a batch", "fine_labels": labels, "coarse_labels": coarse, "data": rows}


def cifar_meta(name: str) -> dict[str, Any]:
    """The names of the classes."""
    if name == "cifar10":
        return {"num_cases_per_batch": 10000, "label_names": CIFAR10_CLASSES.split(), "num_vis": 3072}
    return {"fine_label_names": CIFAR100_CLASSES.split(), "coarse_label_names": ["flowers", "fish"]}


def write_cifar(folder: Path, name: str, train: tuple[Any, Any], test: tuple[Any, Any]) -> Path:
    """The official batches, in ``folder``; each part is (images, labels)."""
    _, training, testing, meta = CIFAR[name]
    folder.mkdir(parents=True, exist_ok=True)
    parts = zip(*(np.array_split(each, len(training)) for each in train), strict=True)
    for file, (images, labels) in [*zip(training, parts, strict=True), (testing, test)]:
        fields = cifar_batch(name, images, [int(label) for label in labels])
        (folder / file).write_bytes(python2_pickle(fields))
    (folder / meta).write_bytes(python2_pickle(cifar_meta(name)))
    return folder


def write_small_cifar(folder: Path, name: str) -> Path:
    """Ten training images and three test images of noise."""
    return write_cifar(folder, name, (cifar_images(10), range(10)), (cifar_images(3, seed=1), [9, 0, 4]))


def pack(folder: Path, archive: Path) -> Path:
    """A gzipped tar of a folder, its files in another order than their own, as in the official ones."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        for file in sorted(folder.iterdir(), reverse=True):
            tar.add(file, f"{folder.name}/{file.name}")
    return archive


def write_parquet(folder: Path, classes: Sequence[str], images: NDArray[np.uint8], labels: list[int]) -> Path:
    """As the Hugging Face hub has them, the same images in both parts; skips the test where pyarrow is missing."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    cells = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "png")
        cells.append({"bytes": file.getvalue(), "path": None})
    schema = json.dumps({"info": {"features": {"label": {"names": list(classes)}}}})
    table = pa.table({"img": cells, "label": labels}).replace_schema_metadata({"huggingface": schema})
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        pq.write_table(table, folder / f"{part}-0.parquet")
    return folder


def idx(array: NDArray[np.uint8]) -> bytes:
    """An IDX file of bytes."""
    return struct.pack(f">{1 + array.ndim}i", 0x800 + array.ndim, *array.shape) + array.tobytes()


def write_idx(folder: Path, *, zipped: bool = False) -> Path:
    """Twelve training images and four test images of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, count in (("train", 12), ("t10k", 4)):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for name, array in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
            data = idx(array)
            (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(data) if zipped else data)
    return folder


def svhn(count: int, **changes: Any) -> bytes:
    """A MATLAB file with the digits 1, 2, …, 9, 0 and noise for images; ``None`` leaves a variable out."""
    images = np.random.default_rng(count).integers(0, 256, (32, 32, 3, count), np.uint8)
    labels = (np.arange(count, dtype=np.uint8)[:, None] % 10) + 1
    variables = {"X": images, "y": labels, **changes}
    file = io.BytesIO()
    savemat(file, {name: value for name, value in variables.items() if value is not None}, do_compression=True)
    return file.getvalue()


def write_svhn(folder: Path) -> Path:
    """Twelve training images and four test images."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train_32x32.mat").write_bytes(svhn(12))
    (folder / "test_32x32.mat").write_bytes(svhn(4))
    return folder


def read(root: Path, name: str = "cifar10", part: Part = "train") -> Split:
    """A part of a data set that is decoded in memory."""
    samples = SOURCES[name].read(root, part)
    assert isinstance(samples, Split)
    return samples


def refusal(root: Path, name: str = "cifar10", part: Part = "train") -> str:
    """What is said, on one line, of data that cannot be read."""
    with pytest.raises(DataError) as caught:
        read(root, name, part)
    assert "\n" not in str(caught.value)
    return str(caught.value)
