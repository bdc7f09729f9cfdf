"""Weights as the words they are multiplied in."""

import numpy as np
from numpy.typing import NDArray


def pack(weight: NDArray[np.float32], packed: int) -> NDArray[np.float32]:
    """Words that look like floats, (out, in / packed, size, size).

    Args:
        weight: (out, in, size, size).
        packed: input channels of a word; with 2 they are bfloat16, the first in the lower half.
    """
    if packed == 1:
        return weight
    even = np.pad(weight, [(0, 0), (0, weight.shape[1] % 2), *[(0, 0)] * (weight.ndim - 2)])
    halves = _bfloat16(even)
    return (halves[:, ::2] | halves[:, 1::2] << 16).view(np.float32)


def pack_bytes(weight: NDArray[np.int8]) -> NDArray[np.float32]:
    """The same of weights in 8 bits, four input channels a word, the first in the lowest byte."""
    rest = -weight.shape[1] % 4
    whole = np.pad(weight, [(0, 0), (0, rest), *[(0, 0)] * (weight.ndim - 2)])
    grouped = whole.reshape(len(whole), -1, 4, *whole.shape[2:])
    words: NDArray[np.float32] = np.ascontiguousarray(np.moveaxis(grouped, 2, -1)).view(np.float32)[..., 0]
    return words


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """The upper halves of the nearest ones, of two as near the even one."""
    whole = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (whole + 0x7FFF + ((whole >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint32)
