import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from offramp.data.holdout import Holdout
from offramp.data.parquet import parquet_source
from offramp.data.preprocess import Preprocessing
from offramp.data.streamed import Cells, Files, StreamedSplit, pack, unpacked
from offramp.data.workers import Workers
from offramp.errors import DataError
from pictures import picture, write_picture, write_truncated, write_turned
from published import write_parquet

COLOUR = Preprocessing(8, (0.5,) * 3, (0.5,) * 3)
HERE = Workers(0)


@pytest.fixture
def many(tmp_path: Path) -> StreamedSplit:
    """Pictures of many sizes and modes; the label is the number."""
    modes = ("RGB", "L", "RGBA", "P")
    names = [f"{number}.png" for number in range(23)]
    for number, name in enumerate(names):
        write_picture(tmp_path / name, number, size=(8 + number, 30 - number), mode=modes[number % 4])
    return StreamedSplit(Files.of(tmp_path, names), np.arange(23))


def together(batches: Any) -> NDArray[np.uint8]:
    return np.concatenate(list(batches))


def wanted(split: StreamedSplit, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """What the images are, by way of nothing but Pillow's own opening."""
    return np.stack([preprocessing.fit(Image.open(split.encoded.name(row))) for row in range(len(split))])


@pytest.mark.parametrize("workers", [HERE, Workers(2, "fork"), Workers(1, "spawn")], ids=str)
def test_the_workers_change_nothing_about_the_images(workers: Workers, many: StreamedSplit) -> None:
    found = [batch.copy() for batch in many.prepared(COLOUR, workers).batches(5)]
    assert [batch.shape for batch in found] == [(5, 8, 8, 3)] * 4 + [(3, 8, 8, 3)]
    assert {batch.dtype for batch in found} == {np.dtype(np.uint8)}
    assert np.array_equal(together(found), wanted(many, COLOUR))


def test_taking_rows_takes_their_images_labels_and_names(many: StreamedSplit) -> None:
    some = many.take(np.array([7, 2, 19])).prepared(COLOUR, HERE)
    assert some.labels.tolist() == [7, 2, 19]
    assert some.listing() == b"7.png\n2.png\n19.png"
    assert np.array_equal(together(some.batches(2)), wanted(many, COLOUR)[[7, 2, 19]])
    again = some.take(np.array([1]))
    assert again.encoded.name(0) == many.encoded.name(2)


def test_grey_models_get_grey_images(many: StreamedSplit) -> None:
    grey = Preprocessing(8, (0.5,), (0.5,))
    assert together(many.prepared(grey, HERE).batches(23)).shape == (23, 8, 8, 1)


def test_whole_images_come_upright(tmp_path: Path) -> None:
    write_turned(tmp_path / "turned.png", size=(12, 10))
    split = StreamedSplit(Files.of(tmp_path, ["turned.png"]), np.zeros(1, np.int64))
    assert split.image(0).size == (10, 12)
    assert np.array_equal(np.asarray(split.image(0)), np.rot90(np.asarray(picture(0, (12, 10))), -1))


@pytest.mark.parametrize("count", [0, 2])
def test_ten_crops_are_those_of_the_preprocessing(count: int, many: StreamedSplit) -> None:
    wide = Preprocessing(8, (0.5,) * 3, (0.5,) * 3, resize=12)
    crops = together(many.prepared(wide, Workers(count)).ten_crops(4))
    assert crops.shape == (23, 10, 8, 8, 3)
    assert np.array_equal(crops[6], wide.ten_crops(Image.open(many.encoded.name(6))))


def test_decoded_images_are_the_streamed_ones(many: StreamedSplit) -> None:
    prepared = many.prepared(COLOUR, Workers(2))
    decoded = prepared.decoded()
    assert np.array_equal(decoded.images, wanted(many, COLOUR))
    assert np.array_equal(decoded.labels, many.labels)
    assert prepared.decoded_bytes == decoded.images.nbytes


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("way", ["batches", "ten_crops"])
def test_an_image_that_cannot_be_read_is_named_once_its_batch_is_due(way: str, count: int, many: StreamedSplit) -> None:
    bad = write_truncated(Path(many.encoded.name(0)).with_name("half.jpg"))
    names = [*(f"{number}.png" for number in range(12)), "half.jpg"]
    split = StreamedSplit(Files.of(bad.parent, names), np.zeros(13, np.int64)).prepared(COLOUR, Workers(count))
    batches = getattr(split, way)(4)
    assert [len(next(batches)) for _ in range(3)] == [4, 4, 4]
    with pytest.raises(DataError) as caught:
        next(batches)
    assert str(caught.value).startswith(f"{bad}: cannot be decoded (image file is truncated")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_gone_meanwhile_is_named(many: StreamedSplit) -> None:
    Path(many.encoded.name(3)).unlink()
    with pytest.raises(DataError, match=r"3\.png: no such file; check the path"):
        list(many.prepared(COLOUR, HERE).batches(23))


def test_the_first_of_several_errors_of_a_batch_is_told() -> None:
    first, second = DataError("a: damaged"), DataError("b: damaged")
    assert pack([np.zeros((2, 2, 1), np.uint8), first, second]) is first
    with pytest.raises(DataError, match="a: damaged"):
        unpacked(first)


def test_names_that_are_no_unicode_are_opened_all_the_same(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    write_picture(tmp_path / "plain.png").rename(tmp_path / name)
    split = StreamedSplit(Files.of(tmp_path, [name]), np.zeros(1, np.int64)).prepared(COLOUR, HERE)
    assert together(split.batches(1)).shape == (1, 8, 8, 3)
    assert split.listing() == b"caf\xe9.png"


CLASSES = ("ant", "bee", "fly")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A Parquet data set of 30 training images."""
    pixels = np.stack([np.asarray(picture(seed, (8, 8))) for seed in range(30)])
    return write_parquet(tmp_path / "insects", CLASSES, pixels, [seed % 3 for seed in range(30)])


@pytest.mark.parametrize("workers", [HERE, Workers(2, "fork"), Workers(1, "spawn")], ids=str)
def test_images_in_tables_are_decoded_by_workers_too(workers: Workers, table: Path) -> None:
    source = parquet_source(table, COLOUR).open(holdout=Holdout(size=6), workers=workers)
    train, calibrate = Holdout(size=6).cut("insects", 30, 3)
    for split, rows in ((source.split("train"), train), (source.split("calibrate"), calibrate)):
        assert split.labels.tolist() == [row % 3 for row in rows]
        assert np.array_equal(
            together(split.batches(7)), np.stack([np.asarray(picture(int(row), (8, 8))) for row in rows])
        )
        assert split.listing() == b""


def test_an_unreadable_image_in_a_table_is_named_by_its_place_in_the_table() -> None:
    pa = pytest.importorskip("pyarrow")
    cells = pa.chunked_array([[{"bytes": b"0"}, {"bytes": b"1"}], [{"bytes": b"2"}, {"bytes": b"3"}]])
    taken = Cells("table", cells).take(np.array([3, 1, 2])).take(np.array([2, 0]))
    assert [taken.data(row) for row in range(len(taken))] == [b"2", b"3"]
    with pytest.raises(DataError, match=r"^table, image 3: not an image"):
        taken.open(1)


@pytest.mark.parametrize("cell", [None, {"bytes": None}, {"path": "x"}])
def test_a_cell_without_an_image_is_unreadable(cell: object) -> None:
    pa = pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=r"^table, image 0: not an image"):
        Cells("table", pa.chunked_array([[cell, {"bytes": b"", "path": ""}]])).open(0)
