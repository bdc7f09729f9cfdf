"""Where the pixels of feature maps lie: channel after channel, in rows that share the zeros between them.

A row is followed by as many zeros as a convolution reads beyond its end, which are also those it reads before the next row.
A convolution is then the same sum for every word of a plane, at fixed distances from it, and vectors go over rows' ends.
What it computes for the zeros is thrown away. A word has 32 bits: a float, or two of half that size, of two channels.
"""

from dataclasses import dataclass


def round_up(count: int, multiple: int) -> int:
    """The next multiple."""
    return -(-count // multiple) * multiple


@dataclass(frozen=True)
class Plane:
    """One channel, or those that share words; all counts but the first three are of words.

    Args:
        height: of the map.
        width: of the map.
        border: zeros that must be there on every side.
        lanes: words of a vector.
    """

    height: int
    width: int
    border: int
    lanes: int

    @property
    def row(self) -> int:
        """From one pixel to that below it."""
        return self.width + self.border

    @property
    def lead(self) -> int:
        """Zeros before the first pixel of the first channel."""
        return round_up(self.border * (self.row + 1), self.lanes)

    @property
    def pitch(self) -> int:
        """From one channel to the next."""
        return round_up(self.height * self.row + self.border * (self.row + 1), self.lanes)

    @property
    def vectors(self) -> int:
        """That hold the pixels of a channel."""
        return -(-self.height * self.row // self.lanes)

    def size(self, planes: int) -> int:
        """Of a map with so many; vectors may reach beyond the last."""
        return self.lead + planes * self.pitch + self.lanes

    def at(self, y: int, x: int) -> int:
        """From the first pixel to that one, which may lie in the border."""
        return y * self.row + x

    def pixels(self) -> list[bool]:
        """Which words of the vectors of a channel are pixels."""
        count = self.vectors * self.lanes
        return [place < self.height * self.row and place % self.row < self.width for place in range(count)]
