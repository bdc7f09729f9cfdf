"""Images that are in a data set more than once."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from offramp.data.scan import Scanned
from offramp.data.source import Part

_SHOWN = 3


@dataclass(frozen=True)
class Copy:
    """One of several images that are exactly the same."""

    part: Part
    name: str
    class_name: str


@dataclass(frozen=True)
class Duplicates:
    """Images that are exactly the same."""

    copies: tuple[Copy, ...]

    @property
    def leak(self) -> bool:
        """Whether they are in both parts, so that the test asks for what was trained."""
        return len({copy.part for copy in self.copies}) > 1

    @property
    def labels_differ(self) -> bool:
        """Whether one of their labels must be wrong."""
        return len({copy.class_name for copy in self.copies}) > 1

    def __str__(self) -> str:
        shown = [f"{copy.part}: {copy.name} ({copy.class_name})" for copy in self.copies[:_SHOWN]]
        more = len(self.copies) - len(shown)
        return " = ".join([*shown, *([f"{more} more"] if more else [])])


def find_duplicates(parts: Mapping[Part, Scanned], classes: Sequence[str]) -> list[Duplicates]:
    """Every group of two and more, in the order of their first images.

    Args:
        parts: what was seen of each part.
        classes: class names, (C,).
    """
    groups: dict[bytes, list[Copy]] = defaultdict(list)
    for part, scanned in parts.items():
        for finding in scanned.readable:
            groups[finding.digest].append(Copy(part, finding.name, classes[scanned.labels[finding.row]]))
    return [Duplicates(tuple(copies)) for copies in groups.values() if len(copies) > 1]
