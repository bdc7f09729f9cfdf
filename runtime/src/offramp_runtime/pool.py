"""Memory that stages write into, used again as soon as nobody reads it any more."""

import contextlib
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 64
"""Bytes of a cache line."""
LARGE_BYTES = 2**20
"""Blocks of more are those of many images: batches shrink as images leave, so they come in many sizes, each used rarely."""
_KEPT = 8
"""Free blocks kept per shape."""
_SHAPES = 64
"""Shapes that free blocks are kept for."""
_LARGE_KEPT_BYTES = 2**27
"""Of all large free blocks together."""


class Block:
    """An array, and what a runtime calls the same memory."""

    __slots__ = ("array", "value")

    def __init__(self, array: NDArray[Any], value: Any) -> None:
        self.array = array
        self.value = value


class Lent:
    """A block that goes back to its pool when the last reference to this object is gone."""

    __slots__ = ("block", "pool")

    def __init__(self, block: Block, pool: "Pool") -> None:
        self.block = block
        self.pool = pool

    @property
    def array(self) -> NDArray[Any]:
        """The values."""
        return self.block.array

    def __del__(self) -> None:
        self.pool.give_back(self.block)


class Pool:
    """Free blocks by shape and type.

    No lock is needed: appending to, popping and removing from a deque, and setting an item of a dictionary, are atomic.

    Args:
        wrap: what the runtime makes of an array without copying it.
    """

    def __init__(self, wrap: Callable[[NDArray[Any]], Any]) -> None:
        self._wrap = wrap
        self._free: dict[tuple[tuple[int, ...], str], deque[Block]] = {}
        self._large: deque[Block] = deque()
        """The one that was given back first comes first."""

    def lend(self, shape: tuple[int, ...], dtype: str) -> Lent:
        """A block to write into; its values are arbitrary."""
        try:
            return Lent(self._free[shape, dtype].pop(), self)
        except (KeyError, IndexError):
            return self._large_one(shape, dtype) or Lent(self.new(shape, dtype), self)

    def new(self, shape: tuple[int, ...], dtype: str) -> Block:
        """A block nobody gives back."""
        return self._block(aligned(shape, np.dtype(dtype)))

    def adopt(self, array: NDArray[Any]) -> Lent:
        """A block of memory that was made elsewhere."""
        return Lent(self._block(array), self)

    def _block(self, array: NDArray[Any]) -> Block:
        return Block(array, self._wrap(array))

    def give_back(self, block: Block) -> None:
        """Keep the block for the next one who asks."""
        if block.array.nbytes > LARGE_BYTES:
            self._keep_large(block)
            return
        key = block.array.shape, block.array.dtype.str
        free = self._free.get(key)
        if free is None:
            if len(self._free) >= _SHAPES:
                self._free.clear()
            free = self._free[key] = deque(maxlen=_KEPT)
        free.append(block)

    def _large_one(self, shape: tuple[int, ...], dtype: str) -> Lent | None:
        for block in tuple(self._large):
            if block.array.shape == shape and block.array.dtype.str == dtype:
                with contextlib.suppress(ValueError):  # another thread was faster
                    self._large.remove(block)
                    return Lent(block, self)
        return None

    def _keep_large(self, block: Block) -> None:
        """Let go of the oldest until all together are no larger than is kept."""
        self._large.append(block)
        excess = sum(kept.array.nbytes for kept in tuple(self._large)) - _LARGE_KEPT_BYTES
        while excess > 0:
            try:
                excess -= self._large.popleft().array.nbytes
            except IndexError:  # other threads were faster
                return


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Vector instructions are slower on values that lie across two cache lines, as many would in NumPy's own arrays."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    whole: NDArray[Any] = memory[first : first + size].view(dtype).reshape(shape)
    return whole


Tensors = Mapping[str, Lent]
"""What a state is made of, by name."""
