"""Reading pickles of arrays and plain values, and refusing everything else a pickle could do.

Not even NumPy's own functions are handed to the file: a forged description of a type makes them read memory that is not
theirs. What stands in for them here only keeps the bytes, and an array is made of those once its type and shape have been
checked.
"""

import math
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError

_NUMBERS = re.compile(r"[|<>=]?(b1|[iu][1248]|f[248])")


def load_plain(file: IO[bytes], place: str, remedy: str) -> dict[str, Any]:
    """The dictionary pickled in ``file``, by Python 2 or 3, with arrays among its values.

    Text that Python 2 wrote comes back as bytes, but for the keys.

    Args:
        file: read to the end of the pickle.
        place: what errors call the file.
        remedy: what to do about a bad one.

    Raises:
        DataError: it wants anything but arrays of numbers and plain values, is damaged, or holds no dictionary.
    """
    try:
        found = _Plain(file, place, remedy).load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"{place}: cannot be read as a pickle of arrays ({type(error).__name__}); {remedy}") from None
    if not isinstance(found, dict):
        raise DataError(f"{place}: holds a {type(found).__name__}, wanted a dictionary; {remedy}")
    return {_text(key): value.array if isinstance(value, _Array) else value for key, value in found.items()}


class _Plain(pickle.Unpickler):
    def __init__(self, file: IO[bytes], place: str, remedy: str) -> None:
        super().__init__(file, encoding="bytes")
        self._place = place
        self._remedy = remedy

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[f"{module}.{name}"]
        except KeyError:
            self._refuse(f"wants to load '{module}.{name}'")

    def persistent_load(self, pid: Any) -> Any:
        self._refuse(f"refers to something outside the file ({pid!r:.40})")

    def _refuse(self, what: str) -> None:
        raise DataError(f"{self._place}: {what}, and only arrays and plain values are read; {self._remedy}")


class _Array:
    """``numpy.ndarray`` while it is being unpickled."""

    __slots__ = ("array",)

    array: NDArray[Any]

    def __setstate__(self, state: tuple[int, tuple[int, ...], "_Kind", bool, bytes | str]) -> None:
        _, shape, kind, column_major, data = state
        if not all(isinstance(side, int) and side >= 0 for side in shape):
            raise ValueError(shape)
        numbers = kind.numbers(data, math.prod(shape))
        self.array = numbers.reshape(shape, order="F" if column_major else "C")


class _Kind:
    """``numpy.dtype`` while it is being unpickled: a type of numbers."""

    __slots__ = ("_dtype",)

    def __init__(self, code: bytes | str, *_: object) -> None:
        if not _NUMBERS.fullmatch(_text(code)):
            raise ValueError(code)
        self._dtype = np.dtype(_text(code))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._dtype = self._dtype.newbyteorder(_text(state[1]))  # type: ignore[arg-type]

    def numbers(self, data: bytes | str, count: int) -> NDArray[Any]:
        """Exactly ``count`` of them."""
        raw = data if isinstance(data, bytes) else data.encode("latin1")
        if len(raw) != count * self._dtype.itemsize:
            raise ValueError(f"{len(raw)} bytes")
        return np.frombuffer(raw, self._dtype) if raw else np.empty(0, self._dtype)


@dataclass(frozen=True, slots=True)
class _Maker:
    """A function that a pickle may call but not change."""

    make: Callable[..., object]

    def __call__(self, *arguments: object) -> object:
        return self.make(*arguments)

    def __setstate__(self, state: object) -> None:
        raise TypeError(state)


def _text(value: bytes | str) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # others unpack what was compressed
        raise ValueError(encoding)
    return text.encode("latin1")


def _scalar(kind: _Kind, data: bytes | str) -> object:
    return kind.numbers(data, 1)[0]


_ARRAYS = {"_reconstruct": _Maker(lambda *_: _Array()), "scalar": _Maker(_scalar)}
_ALLOWED = MappingProxyType(
    {f"numpy.{core}.multiarray.{name}": make for core in ("core", "_core") for name, make in _ARRAYS.items()}
    | {
        "numpy.ndarray": _Maker(_Array),
        "numpy.dtype": _Maker(_Kind),
        "_codecs.encode": _Maker(_encode),
        "__builtin__.bytes": _Maker(lambda: b""),  # how Python 3 writes no bytes at all for Python 2
    }
)
"""What stands in for the few names that arrays and bytes are pickled with."""
