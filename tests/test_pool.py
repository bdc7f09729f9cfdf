import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from offramp_runtime import pool
from offramp_runtime.pool import Pool

LARGE = 2**18 + 16
"""Floats of a block that counts as large."""


@pytest.fixture
def wrapped() -> list[NDArray[Any]]:
    """The arrays that were made, in order."""
    return []


@pytest.fixture
def blocks(wrapped: list[NDArray[Any]]) -> Pool:
    return Pool(wrapped.append)


@pytest.mark.parametrize("size", [5, LARGE])
def test_what_nobody_holds_any_more_is_lent_again(blocks: Pool, wrapped: list[NDArray[Any]], size: int) -> None:
    for _ in range(3):
        lent = blocks.lend((2, size), "<f4")
        lent.array[:] = 1
        del lent
    assert len(wrapped) == 1


@pytest.mark.parametrize("size", [5, LARGE])
def test_what_somebody_holds_is_lent_to_nobody_else(blocks: Pool, size: int) -> None:
    held = [blocks.lend((size,), "<f4") for _ in range(4)]
    assert len({lent.array.ctypes.data for lent in held}) == 4


@pytest.mark.parametrize("size", [5, LARGE])
def test_another_shape_or_type_is_other_memory(blocks: Pool, wrapped: list[NDArray[Any]], size: int) -> None:
    blocks.lend((size, 2), "<f4")
    assert blocks.lend((2, size), "<f4").array.shape == (2, size)
    assert blocks.lend((size, 2), "<i4").array.dtype == np.int32
    assert len(wrapped) == 3


def test_memory_begins_at_a_cache_line(blocks: Pool) -> None:
    held = [blocks.lend((size,), "<f4") for size in range(1, 20)]
    assert all(lent.array.ctypes.data % 64 == 0 for lent in held)


def test_only_some_free_blocks_of_a_shape_are_kept(blocks: Pool, wrapped: list[NDArray[Any]]) -> None:
    held = [blocks.lend((3,), "<f4") for _ in range(20)]
    held.clear()
    held = [blocks.lend((3,), "<f4") for _ in range(20)]
    assert 20 < len(wrapped) < 40


def test_large_free_blocks_are_kept_up_to_a_limit_newest_first(
    blocks: Pool, wrapped: list[NDArray[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_LARGE_KEPT_BYTES", 3 * 4 * (LARGE + 8))
    for extra in range(8):
        blocks.lend((LARGE + extra,), "<f4")
    assert len(wrapped) == 8
    for extra in (7, 6, 5):
        blocks.lend((LARGE + extra,), "<f4")
    assert len(wrapped) == 8
    blocks.lend((LARGE + 4,), "<f4")
    assert len(wrapped) == 9


@pytest.mark.parametrize("size", [16, LARGE])
def test_threads_never_get_the_same_block(blocks: Pool, size: int) -> None:
    together = threading.Barrier(4)

    def work(number: int) -> bool:
        together.wait()
        fine = True
        for _ in range(200):
            lent = blocks.lend((size,), "<f4")
            lent.array[:4] = number
            fine &= bool((lent.array[:4] == number).all())
            del lent
        return fine

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(4)))
