import contextlib
import errno
import gzip
import hashlib
import http.server
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from offramp.catalog import entries
from offramp.data.cifar import BATCHES
from offramp.data.fetch import PUBLIC, Fetched, PublicSet, fetch
from offramp.errors import ConfigError, DataError, MissingExtraError
from published import CIFAR, pack, write_idx, write_small_cifar
from tiny import offramp

pytest.importorskip("pooch")

Capture = pytest.CaptureFixture[str]


class Mirror:
    """A web server on this machine, with what it holds and what was asked of it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.breaks_after: int | None = None
        self.says_length = True
        self.address = ""

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.path)
        data = self.files.get(handler.path)
        if data is None:
            handler.send_error(404, "Not Found")
            return
        handler.send_response(200)
        if self.says_length:
            handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: self.breaks_after])


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    mirror = Mirror()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        mirror.address = f"http://127.0.0.1:{server.server_port}/sets"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield mirror
        server.shutdown()
        thread.join()


@pytest.fixture
def publish(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, bytes]], None]:
    """Makes files the published ones of a data set."""

    def apply(name: str, files: dict[str, bytes]) -> None:
        sums = {file: hashlib.md5(data).hexdigest() for file, data in files.items()}
        monkeypatch.setitem(PUBLIC, name, PublicSet(mirror.address, sums))
        mirror.files |= {f"/sets/{file}": data for file, data in files.items()}

    return apply


NOISE = bytes(range(256)) * 2000


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_fetched_cifar_is_read_where_it_lies(name: str, publish: Callable[..., None], tmp_path: Path) -> None:
    archive = pack(write_small_cifar(tmp_path / CIFAR[name][0], name), tmp_path / BATCHES[name].archive)
    publish(name, {BATCHES[name].archive: archive.read_bytes()})
    found = fetch(name, tmp_path / "data")
    assert found == [Fetched(tmp_path / "data" / name / BATCHES[name].archive, new=True)]
    assert found[0].path.read_bytes() == archive.read_bytes()
    assert entries("data", "SOURCES")[name].open(tmp_path / "data").split("test").labels.tolist() == [9, 0, 4]


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_fetched_idx_files_are_read_where_they_lie(name: str, publish: Callable[..., None], tmp_path: Path) -> None:
    written = write_idx(tmp_path / "published", zipped=True)
    files = {path.name: path.read_bytes() for path in written.iterdir()}
    assert set(PUBLIC[name].files) == set(files)
    publish(name, files)
    assert all(file.new for file in fetch(name, tmp_path / "data"))
    assert len(entries("data", "SOURCES")[name].open(tmp_path / "data").split("test")) == 4


def test_the_published_sums_are_whole_and_no_two_files_share_one() -> None:
    sums = [md5 for public in PUBLIC.values() for md5 in public.files.values()]
    assert all(len(bytes.fromhex(md5)) == 16 for md5 in sums)
    assert len(set(sums)) == len(sums) == 10
    assert {name: list(PUBLIC[name].files) for name in BATCHES} == {
        name: [batches.archive] for name, batches in BATCHES.items()
    }


def test_a_mirror_is_asked_instead_of_the_authors(
    publish: Callable[..., None], mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("mnist", {"a.gz": NOISE})
    monkeypatch.setitem(PUBLIC, "mnist", PublicSet("http://127.0.0.1:9/nowhere", PUBLIC["mnist"].files))
    fetch("mnist", tmp_path, url=f"{mirror.address}/")
    assert mirror.asked == ["/sets/a.gz"]
    assert (tmp_path / "mnist" / "a.gz").read_bytes() == NOISE


def test_what_is_there_with_the_right_sum_is_not_fetched_again(
    publish: Callable[..., None], mirror: Mirror, tmp_path: Path
) -> None:
    publish("mnist", {"a.gz": NOISE, "b.gz": b"b"})
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "a.gz").write_bytes(NOISE)
    assert [file.new for file in fetch("mnist", tmp_path)] == [False, True]
    assert mirror.asked == ["/sets/b.gz"]
    assert [file.new for file in fetch("mnist", tmp_path)] == [False, False]
    assert mirror.asked == ["/sets/b.gz"]


def test_a_damaged_file_is_replaced(publish: Callable[..., None], tmp_path: Path) -> None:
    publish("mnist", {"a.gz": NOISE})
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "a.gz").write_bytes(NOISE[:-1])
    assert fetch("mnist", tmp_path)[0].new
    assert (tmp_path / "mnist" / "a.gz").read_bytes() == NOISE


def test_progress_runs_to_the_end_of_each_file(publish: Callable[..., None], tmp_path: Path) -> None:
    publish("mnist", {"a.gz": NOISE, "b.gz": b"b"})
    told: list[tuple[str, int, int]] = []
    fetch("mnist", tmp_path, report=lambda *what: told.append(what))
    of_a = [(done, total) for file, done, total in told if file == "a.gz"]
    assert of_a == sorted(of_a)
    assert len(of_a) > 2
    assert of_a[-1] == (len(NOISE), len(NOISE))
    assert told[-1] == ("b.gz", 1, 1)


def test_the_file_is_readable_by_others_as_any_other_is(publish: Callable[..., None], tmp_path: Path) -> None:
    publish("mnist", {"a.gz": NOISE})
    assert fetch("mnist", tmp_path)[0].path.stat().st_mode & 0o777 == 0o644


def test_a_gzipped_file_is_kept_as_it_is(publish: Callable[..., None], tmp_path: Path) -> None:
    publish("mnist", {"a.gz": gzip.compress(NOISE)})
    assert gzip.decompress(fetch("mnist", tmp_path)[0].path.read_bytes()) == NOISE


@pytest.mark.parametrize("says_length", [True, False])
def test_a_download_that_breaks_off_leaves_nothing(
    says_length: bool, publish: Callable[..., None], mirror: Mirror, tmp_path: Path
) -> None:
    publish("mnist", {"a.gz": NOISE})
    mirror.breaks_after, mirror.says_length = 100_000, says_length
    with pytest.raises(DataError) as caught:
        fetch("mnist", tmp_path / "data")
    reason = "the download broke off" if says_length else "what came is not the published file"
    assert str(caught.value).startswith(f"{mirror.address}/a.gz: {reason}")
    assert "mirror with --url" in str(caught.value)
    assert left_in(tmp_path) == []


def test_a_download_that_is_interrupted_leaves_nothing(publish: Callable[..., None], tmp_path: Path) -> None:
    def interrupt(_file: str, done: int, _total: int) -> None:
        if done > 100_000:
            raise KeyboardInterrupt

    publish("mnist", {"a.gz": NOISE})
    with pytest.raises(KeyboardInterrupt):
        fetch("mnist", tmp_path / "data", report=interrupt)
    assert left_in(tmp_path) == []


def test_a_download_that_breaks_off_keeps_what_came_before(
    publish: Callable[..., None], mirror: Mirror, tmp_path: Path
) -> None:
    publish("mnist", {"a.gz": b"whole", "b.gz": NOISE})
    mirror.breaks_after = 100_000
    with pytest.raises(DataError, match="broke off"):
        fetch("mnist", tmp_path)
    assert left_in(tmp_path) == ["mnist", "mnist/a.gz"]
    mirror.breaks_after = None
    assert [file.new for file in fetch("mnist", tmp_path)] == [False, True]


def test_a_file_of_another_sum_is_thrown_away(publish: Callable[..., None], mirror: Mirror, tmp_path: Path) -> None:
    publish("mnist", {"a.gz": NOISE})
    mirror.files["/sets/a.gz"] = NOISE[::-1]
    with pytest.raises(DataError, match=r"a\.gz: what came is not the published file \(its MD5 is not [0-9a-f]{32}\)"):
        fetch("mnist", tmp_path)
    assert left_in(tmp_path) == []


def test_a_failed_download_leaves_the_older_file_alone(
    publish: Callable[..., None], mirror: Mirror, tmp_path: Path
) -> None:
    publish("mnist", {"a.gz": NOISE})
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "a.gz").write_bytes(b"an older edition")
    mirror.files["/sets/a.gz"] = b"wrong"
    with pytest.raises(DataError, match="thrown away"):
        fetch("mnist", tmp_path)
    assert left_in(tmp_path) == ["mnist", "mnist/a.gz"]
    assert (tmp_path / "mnist" / "a.gz").read_bytes() == b"an older edition"


def test_a_missing_file_is_told_with_the_servers_answer(
    publish: Callable[..., None], mirror: Mirror, tmp_path: Path
) -> None:
    publish("mnist", {"a.gz": NOISE})
    mirror.files.clear()
    with pytest.raises(DataError, match=r"/sets/a\.gz: the server answers 404 Not Found; try again, or name a mirror"):
        fetch("mnist", tmp_path)
    assert left_in(tmp_path) == []


def test_without_a_network_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, and nobody listens
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert offramp("data", "fetch", "cifar10", "--data-root", tmp_path / "data", "--url", address) == 2
    out, err = capsys.readouterr()
    assert (out, left_in(tmp_path)) == ("", [])
    assert err == (
        f"offramp: {address}/cifar-10-python.tar.gz: no connection to the server, or it was lost; "
        "try again, or name a mirror with --url\n"
    )


@pytest.mark.parametrize("address", ["no address", "ftp://127.0.0.1/sets", "http://"])
def test_an_address_that_is_none_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no address to fetch from") as caught:
        fetch("mnist", tmp_path, url=address)
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path) == []


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow larger than so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_file_that_cannot_be_written_whole_is_told_and_leaves_nothing(
    publish: Callable[..., None], tmp_path: Path
) -> None:
    publish("mnist", {"a.gz": NOISE})
    with room_for(100_000), pytest.raises(DataError) as caught:
        fetch("mnist", tmp_path)
    reason = f"cannot be written ({os.strerror(errno.EFBIG)}); check the folder and the disk"
    assert str(caught.value) == f"{tmp_path / 'mnist' / 'a.gz'}: {reason}"
    assert left_in(tmp_path) == []


def test_a_file_in_the_folders_place_is_told(publish: Callable[..., None], tmp_path: Path) -> None:
    publish("mnist", {"a.gz": NOISE})
    (tmp_path / "mnist").write_text("not a folder")
    with pytest.raises(DataError, match=r"mnist/a\.gz: cannot be written"):
        fetch("mnist", tmp_path)
    assert (tmp_path / "mnist").read_text() == "not a folder"


def test_an_unknown_set_is_refused_with_a_near_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^no public data set is called 'cifar-10'; did you mean 'cifar10'"):
        fetch("cifar-10", tmp_path)


def test_without_pooch_the_way_to_install_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(MissingExtraError, match=r"pooch, which is not installed: pip install 'offramp\[data\]'$"):
        fetch("mnist", tmp_path)


def test_the_command_says_what_it_did_and_what_is_next(
    publish: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    publish("mnist", {"a.gz": NOISE, "b.gz": b"b"})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    (tmp_path / "data" / "mnist" / "b.gz").write_bytes(b"b")
    assert offramp("data", "fetch", "mnist") == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "data/mnist/a.gz: downloaded, 0.5 MB, checksum right",
        "data/mnist/b.gz: there already, checksum right",
        "next: offramp data check data/mnist",
    ]
    assert err == ""
