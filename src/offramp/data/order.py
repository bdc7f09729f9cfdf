"""The order of training as a pure function: nothing to save, nothing to lose."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of ``count`` images in an epoch, (N,)."""
    order = np.random.default_rng((seed, epoch)).permutation(count).astype(np.int64)
    order.flags.writeable = False
    return order


def steps_per_epoch(count: int, batch_size: int, drop_last: bool) -> int:
    """Batches of an epoch; at least one."""
    return max(1, count // batch_size if drop_last else -(-count // batch_size))


def batch_rows(
    order: NDArray[np.int64], place: int, batch_size: int, rank: int = 0, ranks: int = 1
) -> NDArray[np.int64]:
    """The rows of batch ``place`` that process ``rank`` of ``ranks`` computes; together they are the whole batch."""
    return order[place * batch_size : (place + 1) * batch_size][rank::ranks]


def steps(first: int, total: int, per_epoch: int) -> Iterator[tuple[int, int]]:
    """(epoch, place) of the steps ``first`` … ``total - 1``."""
    for step in range(first, total):
        yield divmod(step, per_epoch)
