"""Convolutions of three rows by way of values at points: fewer products, as Winograd found (Lavin and Gray, arXiv:1509.09308).

Down a column of pixels a window of three is a product of polynomials. Known at six points, it gives four rows of the output:
18 products for each column of the window instead of 12 for each row of the output. Rows stay as they are, so that vectors
need no shuffling, and numbers stay close to what plain sums give.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp_runtime.native.blocks import Vectors
from offramp_runtime.native.layers import Conv, Shape
from offramp_runtime.native.planes import Plane, round_up

POINTS = 6
"""0, 1, -1, 2, -2 and infinity."""
ROWS = 4
"""Of an output that come of values at those."""
_OF_WINDOW = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
"""(POINTS, 3)."""
_MOVES = 8
"""Vectors that may be multiplied while one is brought to points or back (as tried on a Zen 4)."""
_WORTH = 0.8
"""Of the time; a smaller gain is lost on twice as many weights, which crowd others out of caches (as tried there)."""


@dataclass(frozen=True)
class ToPoints:
    """Every channel of a map as six of a quarter of its rows."""

    source: str
    sink: str


@dataclass(frozen=True, eq=False)
class FromPoints:
    """What a convolution gives, of its channels' values at six points."""

    source: str
    sink: str
    bias: NDArray[np.float32]
    """(out,)."""
    relu: bool


def by_way_of_points(conv: Conv) -> tuple[ToPoints, Conv, FromPoints]:
    """What computes the same."""
    before, after = f"{conv.source} at points for {conv.sink}", f"{conv.sink} at points"
    out, planes, _, width = conv.weight.shape
    weight = np.einsum("pk,ockx->pocx", _OF_WINDOW, conv.weight.astype(np.float64)).astype(np.float32)
    none = np.zeros(POINTS * out, np.float32)
    return (
        ToPoints(conv.source, before),
        Conv(before, after, weight.reshape(POINTS * out, planes, 1, width), none, 1, relu=False, groups=POINTS),
        FromPoints(after, conv.sink, conv.bias, conv.relu),
    )


def at_points(shape: Shape) -> Shape:
    """Of a map at points."""
    channels, height, width = shape
    return (POINTS * channels, -(-height // ROWS), width)


def pays(conv: Conv, shape: Shape, vectors: Vectors) -> bool:
    """Whether it is faster so, for an output of some shape, in float32."""
    if conv.size != 3 or conv.stride != 1:
        return False
    out, height, width = shape
    if -width % vectors.lanes > width + 2:  # more than the zeros behind a plane, which vectors are written into
        return False
    planes = conv.weight.shape[1]
    of_pixels = Plane(height, width, 1, vectors.lanes).vectors * out
    of_channels = height * width * round_up(out, vectors.lanes) // vectors.lanes
    few = Plane(-(-height // ROWS), width, 1, vectors.lanes).vectors
    moved = _MOVES * height * -(-width // vectors.lanes) * (planes + out)
    return bool(3 * POINTS * few * planes * out + moved < _WORTH * 9 * planes * min(of_pixels, of_channels))
