import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.data.order import batch_rows, epoch_order, steps, steps_per_epoch


@given(seed=st.integers(0, 2**32), epoch=st.integers(0, 1000), count=st.integers(0, 300))
def test_an_epoch_has_every_image_once(seed: int, epoch: int, count: int) -> None:
    order = epoch_order(seed, epoch, count)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(count))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    orders = {(seed, epoch): epoch_order(seed, epoch, 50).tolist() for seed in range(3) for epoch in range(3)}
    assert len({tuple(order) for order in orders.values()}) == 9
    np.random.seed(7)
    for (seed, epoch), order in orders.items():
        assert epoch_order(seed, epoch, 50).tolist() == order


def test_nobody_can_change_an_order_that_others_are_given_too() -> None:
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(0, 0, 5)[0] = 1


@pytest.mark.parametrize(
    ("count", "batch_size", "drop_last", "expected"),
    [
        (64, 16, True, 4),
        (64, 16, False, 4),
        (65, 16, True, 4),
        (65, 16, False, 5),
        (10, 16, True, 1),
        (1, 16, False, 1),
    ],
)
def test_an_incomplete_batch_counts_unless_it_is_dropped_and_one_is_always_left(
    count: int, batch_size: int, drop_last: bool, expected: int
) -> None:
    assert steps_per_epoch(count, batch_size, drop_last) == expected


@given(
    count=st.integers(1, 100), batch_size=st.integers(1, 20), ranks=st.integers(1, 8), drop_last=st.booleans(),
    epoch=st.integers(0, 5),
)  # fmt: skip
def test_the_shards_of_all_ranks_are_together_each_batch_and_the_batches_the_epoch(
    count: int, batch_size: int, ranks: int, drop_last: bool, epoch: int
) -> None:
    order = epoch_order(3, epoch, count)
    used: list[int] = []
    for place in range(steps_per_epoch(count, batch_size, drop_last)):
        whole = batch_rows(order, place, batch_size).tolist()
        shards = [batch_rows(order, place, batch_size, rank, ranks).tolist() for rank in range(ranks)]
        assert sorted(row for shard in shards for row in shard) == sorted(whole)
        assert max(map(len, shards)) - min(map(len, shards)) <= 1
        used += whole
    assert used == order[: len(used)].tolist()
    dropped = count % batch_size if drop_last and count >= batch_size else 0
    assert len(used) == count - dropped


@given(total=st.integers(0, 60), per_epoch=st.integers(1, 9), first=st.integers(0, 60))
def test_a_run_can_be_taken_up_at_any_step(total: int, per_epoch: int, first: int) -> None:
    whole = list(steps(0, total, per_epoch))
    assert whole == [(step // per_epoch, step % per_epoch) for step in range(total)]
    assert list(steps(first, total, per_epoch)) == whole[first:]
