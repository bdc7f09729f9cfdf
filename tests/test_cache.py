import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from offramp_runtime.cache import cache_folder, cached, key_of
from offramp_runtime.errors import ArtifactError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(text: str, folder: Path) -> None:
    (folder / "text").write_text(text)


def never(folder: Path) -> None:
    raise AssertionError


def test_what_was_made_once_is_not_made_again(cache: Path) -> None:
    first = cached("kind", {"a": 1}, lambda folder: write("made", folder))
    assert first.is_relative_to(cache / "kind")
    assert (first / "text").read_text() == "made"
    assert cached("kind", {"a": 1}, never) == first


def test_other_values_or_another_kind_are_made_anew() -> None:
    places = {
        cached(kind, belongs_to, lambda folder: write("made", folder))
        for kind, belongs_to in (("kind", {"a": 1}), ("kind", {"a": 2}), ("kind", {"b": 1}), ("other", {"a": 1}))
    }
    assert len(places) == 4


def test_the_order_of_the_values_does_not_count() -> None:
    assert key_of({"a": 1, "b": [2, 3]}) == key_of({"b": [2, 3], "a": 1}) != key_of({"a": 1, "b": [3, 2]})


def test_it_says_what_a_folder_belongs_to() -> None:
    place = cached("kind", {"weights": "cafe"}, lambda folder: write("made", folder))
    assert json.loads((place / "complete.json").read_text())["belongs_to"] == {"weights": "cafe"}


def test_making_that_fails_leaves_nothing_and_can_be_tried_again(cache: Path) -> None:
    def fails(folder: Path) -> None:
        write("half", folder)
        raise KeyError("halfway")

    with pytest.raises(KeyError, match="halfway"):
        cached("kind", {"a": 1}, fails)
    assert list((cache / "kind").iterdir()) == []
    place = cached("kind", {"a": 1}, lambda folder: write("whole", folder))
    assert (place / "text").read_text() == "whole"
    assert [entry.name for entry in (cache / "kind").iterdir()] == [place.name]


def test_threads_that_ask_at_once_all_get_a_whole_folder(cache: Path) -> None:
    together = threading.Barrier(6)

    def make(folder: Path) -> None:
        together.wait()  # all have found nothing, so all are making
        write("made", folder)

    with ThreadPoolExecutor(6) as pool:
        places = list(pool.map(lambda _: cached("kind", {"a": 1}, make), range(6)))
    assert len(set(places)) == 1
    assert (places[0] / "text").read_text() == "made"
    assert [entry.name for entry in (cache / "kind").iterdir()] == [places[0].name]


def test_processes_that_ask_at_once_all_get_a_whole_folder(cache: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from offramp_runtime.cache import cached

def make(folder):
    print("making", flush=True)
    sys.stdin.readline()
    for part in range(20):
        (folder / f"part{part}").write_text("x")

place = cached("kind", {"a": 1}, make)
print(len(list(place.glob("part*"))))
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "making\n"
    said = [process.communicate("go\n", timeout=60)[0] for process in processes]
    assert said == ["20\n", "20\n"]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(list((cache / "kind").iterdir())) == 1


def test_a_cache_that_cannot_be_written_names_the_way_out(cache: Path) -> None:
    cache.write_text("a file in the way")
    with pytest.raises(ArtifactError, match=r"cannot be written .*OFFRAMP_CACHE") as caught:
        cached("kind", {"a": 1}, lambda folder: write("made", folder))
    assert "\n" not in str(caught.value)


def change(place: Path) -> None:
    (place / "text").write_text("Made")


def lose(place: Path) -> None:
    (place / "text").unlink()


def leave_unfinished(place: Path) -> None:
    (place / "complete.json").unlink()


def garble(place: Path) -> None:
    (place / "complete.json").write_text("[")


def keep_no_digests(place: Path) -> None:
    (place / "complete.json").write_text('{"a": 1}')


@pytest.mark.parametrize("damage", [change, lose, leave_unfinished, garble, keep_no_digests])
def test_what_is_damaged_is_made_anew(cache: Path, damage: Callable[[Path], None]) -> None:
    place = cached("kind", {"a": 1}, lambda folder: write("made", folder))
    damage(place)
    assert cached("kind", {"a": 1}, lambda folder: write("made", folder)) == place
    assert (place / "text").read_text() == "made"
    assert [entry.name for entry in (cache / "kind").iterdir()] == [place.name]
    assert cached("kind", {"a": 1}, never) == place


def test_the_folder_is_the_named_one_else_where_caches_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("OFFRAMP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_folder() == tmp_path / "caches" / "offramp"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "offramp"


def test_what_a_killed_process_left_a_day_ago_is_removed(cache: Path) -> None:
    old, new = cache / "kind" / ".unfinished-old", cache / "kind" / ".unfinished-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
        write("half", folder)
    os.utime(old, (0, 0))
    cached("kind", {"a": 1}, lambda folder: write("made", folder))
    assert (old.exists(), new.exists()) == (False, True)


def test_a_fault_of_the_maker_is_not_said_to_be_the_caches() -> None:
    def fails(folder: Path) -> None:
        raise FileNotFoundError(2, "No such file", "int8.onnx")

    with pytest.raises(FileNotFoundError, match=r"int8\.onnx"):
        cached("kind", {"a": 1}, fails)
