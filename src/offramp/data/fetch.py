"""Public data sets from the addresses of their authors."""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from offramp.catalog import suggest
from offramp.errors import ConfigError, DataError, MissingExtraError

Report = Callable[[str, int, int], None]
"""(file, bytes so far, bytes in all or 0 where the server does not say)."""

_SILENCE_S = 30
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class PublicSet:
    """Where a data set is published."""

    base: str
    """Address its files are below."""
    files: dict[str, str]
    """MD5 of each, as published."""


PUBLIC = {
    "cifar10": PublicSet(
        "https://www.cs.toronto.edu/~kriz", {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"}
    ),
    "cifar100": PublicSet(
        "https://www.cs.toronto.edu/~kriz", {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"}
    ),
    "mnist": PublicSet(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion-mnist": PublicSet(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
}


@dataclass(frozen=True)
class Fetched:
    """A file that is there now."""

    path: Path
    new: bool
    """Whether it was downloaded; otherwise it lay there already."""


def fetch(name: str, data_root: Path, *, url: str | None = None, report: Report | None = None) -> list[Fetched]:
    """Get the files of a public data set into ``data_root/NAME``, where the readers look for them.

    A file that is there with the right checksum stays. A download that fails leaves nothing behind, and files that came
    before it are kept.

    Args:
        name: one of ``PUBLIC``.
        data_root: folder above the data set's own.
        url: address of a mirror, below which the files have the same names.
        report: told of progress.

    Raises:
        ConfigError: no such data set.
        DataError: no network, a download that broke off, a wrong checksum, or a folder that cannot be written.
        MissingExtraError: pooch is not installed.
    """
    if name not in PUBLIC:
        raise ConfigError(f"no public data set is called '{name}'; {suggest(name, PUBLIC)}")
    pooch = _pooch()
    public, folder = PUBLIC[name], data_root / name
    base = (url or public.base).rstrip("/")
    with _no_empty_folders(folder):
        return [_fetch(pooch, f"{base}/{file}", folder / file, md5, report) for file, md5 in public.files.items()]


def _fetch(pooch: ModuleType, address: str, path: Path, md5: str, report: Report | None) -> Fetched:
    from requests import RequestException

    try:
        if path.is_file() and _md5(path) == md5:
            return Fetched(path, new=False)
        pooch.retrieve(address, f"md5:{md5}", path.name, path.parent, downloader=_Download(report))
        path.chmod(0o644)  # pooch leaves it readable by its owner only
    except RequestException as error:
        raise DataError(f"{address}: {_reason(error)}; try again, or name a mirror with --url") from None
    except ValueError:
        raise DataError(
            f"{address}: what came is not the published file (its MD5 is not {md5}) and was thrown away; "
            "try again, or name another mirror with --url"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: cannot be written ({reason}); check the folder and the disk") from None
    return Fetched(path, new=True)


@dataclass(frozen=True)
class _Download:
    """What pooch calls to get a file. Its own downloader counts whole chunks only and leaves broken connections open."""

    report: Report | None

    def __call__(self, address: str, path: str, _pooch: object) -> None:
        import requests

        # Else a .gz might be unpacked on the way, and its checksum be another.
        headers = {"Accept-Encoding": "identity"}
        with (
            requests.get(address, headers=headers, stream=True, timeout=_SILENCE_S) as response,
            Path(path).open("wb") as file,
        ):
            response.raise_for_status()
            name, total = address.rpartition("/")[2], int(response.headers.get("Content-Length", 0))
            for chunk in response.iter_content(_CHUNK_BYTES):
                file.write(chunk)
                if self.report is not None:
                    self.report(name, file.tell(), total)


def _reason(error: Exception) -> str:
    from requests import exceptions

    if isinstance(error, exceptions.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    known = (
        (exceptions.Timeout, "the server does not answer"),
        (exceptions.SSLError, "the server's certificate is not trusted"),
        (exceptions.ProxyError, "the proxy cannot be reached"),
        (exceptions.ChunkedEncodingError, "the download broke off"),
        (exceptions.ConnectionError, "no connection to the server, or it was lost"),
    )
    return next((said for kind, said in known if isinstance(error, kind)), f"no address to fetch from ({error})")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@contextlib.contextmanager
def _no_empty_folders(folder: Path) -> Iterator[None]:
    """Folders that were made for nothing go again."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not there, or not empty: then it was not for nothing
            for place in made:
                place.rmdir()
        raise


def _pooch() -> ModuleType:
    try:
        import pooch
    except ModuleNotFoundError:
        raise MissingExtraError(
            "fetching data sets needs pooch, which is not installed: pip install 'offramp[data]'"
        ) from None
    pooch.get_logger().setLevel(logging.WARNING)
    module: ModuleType = pooch
    return module
