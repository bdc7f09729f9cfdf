import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from offramp.data.workers import Workers
from offramp.errors import DataError

KINDS = [Workers(0), Workers(1, "fork"), Workers(3, "fork"), Workers(1, "spawn")]
"""All ways to do the work."""


class Square:
    """Slower for even keys, so that later batches are ready first."""

    def __getitem__(self, key: int) -> Tensor:
        time.sleep(0.01 * (key % 2 == 0))
        return torch.tensor([key, key * key])


class Whereabouts:
    """The process a key is worked on in."""

    def __getitem__(self, key: int) -> int:
        time.sleep(0.02)
        return os.getpid()


class Dies:
    """Is killed at key 5, as the system does when memory runs out."""

    def __getitem__(self, key: int) -> int:
        if key == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return key


class Fails:
    """Has a defect."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __getitem__(self, key: int) -> int:
        raise self.error("the work itself")


class Interrupted:
    """Gets the Ctrl-C of the terminal."""

    def __getitem__(self, key: int) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return key


class Logs:
    """Keeps a file of the keys that were worked on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __getitem__(self, key: int) -> int:
        with self.path.open("a") as file:
            file.write(f"{key}\n")
        return key


def singles(count: int) -> list[list[int]]:
    return [[key] for key in range(count)]


@pytest.mark.parametrize("workers", KINDS, ids=str)
def test_batches_come_whole_and_in_order(workers: Workers) -> None:
    batches = [[0, 1, 2], [3], [], [10, 9, 8, 7], [5], [5]]
    found = list(workers.run(Square(), batches, stack))
    assert [batch.tolist() for batch in found] == [[[key, key * key] for key in batch] for batch in batches]


def stack(images: list[Tensor]) -> Tensor:  # spawned processes get functions by name
    return torch.stack(images) if images else torch.empty(0)


def test_none_works_in_this_process_and_more_work_in_others() -> None:
    assert list(Workers(0).run(Whereabouts(), singles(3), list)) == [[os.getpid()]] * 3
    places = {place for (place,) in Workers(2).run(Whereabouts(), singles(12), list)}
    assert len(places) == 2
    assert os.getpid() not in places


@pytest.mark.parametrize("workers", [Workers(2, "fork"), Workers(1, "spawn")], ids=str)
def test_a_killed_worker_is_told_in_one_line(workers: Workers) -> None:
    with pytest.raises(DataError) as caught:
        list(workers.run(Dies(), singles(12), list))
    assert str(caught.value) == (
        "a process that decodes images was killed, perhaps for want of memory "
        "(in a container of shared memory: --shm-size); "
        f"go on with fewer than {workers.count} --workers"
    )
    assert caught.value.__suppress_context__


def test_a_worker_that_dies_while_the_caller_is_busy_is_told_when_the_next_batch_is_asked_for() -> None:
    batches = Workers(2).run(Dies(), singles(12), list)
    assert next(batches) == [0]
    ended = time.monotonic() + 1
    while time.monotonic() < ended:  # the worker dies meanwhile; whoever computes here hears nothing of it
        sum(range(1000))
    with pytest.raises(DataError, match="was killed"):
        list(batches)


@pytest.mark.parametrize("error", [RuntimeError, ValueError, DataError])
@pytest.mark.parametrize("count", [0, 2])
def test_a_defect_of_the_work_is_not_taken_for_a_killed_worker(count: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="the work itself"):
        list(Workers(count).run(Fails(error), singles(3), list))
    assert multiprocessing.active_children() == []


def test_workers_leave_ctrl_c_to_their_parent() -> None:
    assert list(Workers(2).run(Interrupted(), singles(6), list)) == singles(6)


@pytest.mark.parametrize(("count", "ahead"), [(0, 2), (1, 2), (2, 1), (2, 3)])
def test_no_more_is_prepared_than_a_few_batches_ahead(count: int, ahead: int, tmp_path: Path) -> None:
    log = tmp_path / "worked on"
    read: list[int] = []

    def keys() -> Iterator[list[int]]:
        for key in range(50):
            read.append(key)
            yield [key]

    batches = Workers(count, ahead=ahead).run(Logs(log), keys(), list)
    for taken in range(1, 6):
        assert next(batches) == [taken - 1]
        time.sleep(0.1)  # time to run further ahead, for workers that would
        assert len(read) == taken + count * ahead
        assert len(log.read_text().split()) <= taken + count * ahead


def test_nothing_is_drawn_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    for count in (0, 1):
        list(Workers(count).run(Square(), singles(2), list))
    assert torch.equal(torch.get_rng_state(), before)


def test_stopping_early_ends_the_workers() -> None:
    batches: Generator[list[Any]] = Workers(2).run(Square(), singles(100), list)  # type: ignore[assignment]
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []


def test_another_handler_of_ended_children_stays_in_place() -> None:
    def handler(*_: object) -> None:
        pass

    before = signal.signal(signal.SIGCHLD, handler)
    try:
        list(Workers(1).run(Square(), singles(2), list))
        assert signal.getsignal(signal.SIGCHLD) is handler
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_workers_can_be_used_from_any_thread() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(Workers(2).run(Whereabouts(), singles(4), list)))
    thread.start()
    thread.join()
    assert len(found) == 4


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(DataError, match=r"^-1 workers: give a number of processes, 0 for none$"):
        Workers(-1)
