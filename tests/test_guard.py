import signal
import threading
from pathlib import Path

import pytest

from offramp.classifier.run_folder import LOCK
from offramp.errors import ArtifactError
from offramp.train.guard import StopSignals, run_lock


def test_a_folder_is_held_by_one_run_at_a_time_and_free_again_afterwards(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "new"
    taken = pytest.raises(ArtifactError, match=r"new: another run is writing there; wait for it, or choose another")
    with run_lock(out):
        assert (out / LOCK).exists()
        with taken, run_lock(out):
            pytest.fail("two runs in one folder")
    with run_lock(out):
        pass


def test_a_run_that_fails_lets_go_of_its_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), run_lock(tmp_path):
        raise KeyboardInterrupt
    with run_lock(tmp_path):
        pass


def test_two_folders_do_not_hinder_each_other(tmp_path: Path) -> None:
    with run_lock(tmp_path / "one"), run_lock(tmp_path / "other"):
        assert (tmp_path / "one" / LOCK).exists()


def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        refused = pytest.raises(ArtifactError, match=r": cannot be written \(.*\); check its permissions$")
        with refused, run_lock(place):
            pytest.fail("a run in a file")


@pytest.mark.parametrize("number", StopSignals.WATCHED)
def test_a_signal_is_noted_and_the_process_lives(number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in StopSignals.WATCHED]
    with StopSignals() as signals:
        assert signals.received is None
        signal.raise_signal(number)
        assert signals.received == number
    assert [signal.getsignal(one) for one in StopSignals.WATCHED] == before


def test_a_second_signal_does_what_it_did_before_they_were_watched() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        with StopSignals() as signals:
            signal.raise_signal(signal.SIGTERM)
            assert (signals.received, came) == (signal.SIGTERM, [])
            signal.raise_signal(signal.SIGTERM)
            assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process started in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt), StopSignals():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_signals_are_handled_as_before_even_if_training_fails() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), StopSignals():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_may_be_in_another_thread_where_signals_cannot_be_watched() -> None:
    seen: list[int | None] = []

    def work() -> None:
        with StopSignals() as signals:
            seen.append(signals.received)

    thread = threading.Thread(target=work)
    before = signal.getsignal(signal.SIGINT)
    thread.start()
    thread.join()
    assert seen == [None]
    assert signal.getsignal(signal.SIGINT) is before
