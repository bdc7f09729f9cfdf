"""What there is to know of a data set before anyone waits for a training."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from offramp.catalog import entries
from offramp.data.duplicates import Duplicates, find_duplicates
from offramp.data.scan import Scanned
from offramp.data.source import Part

FEW = 10
"""Training images below which a class is nearly empty: a tenth of them, one image, would be held out."""
SMALL = 40
"""Pixels up to which images count as small, as those of CIFAR are."""
_MANY, _VERY_MANY = 10_000, 100_000
_SIZE = 64


@dataclass(frozen=True)
class Problem:
    """Something wrong with the data set that does not keep it from being trained on."""

    kind: str
    text: str
    items: tuple[str, ...]
    """What it is wrong with."""


@dataclass(frozen=True)
class Suggestion:
    """How to train on the images."""

    recipe: str
    command: str
    reason: str


@dataclass(frozen=True, eq=False)
class Overview:
    """A data set that was looked at."""

    path: Path
    classes: tuple[str, ...]
    """(C,)."""
    holdout: int
    """Training images that would be set aside."""
    parts: dict[Part, Scanned]
    no_test: str = ""
    """Why no test part could be looked at; empty where one was."""
    wants_test: bool = False
    """Whether there is one, or the data set is known to have one: then it is a problem that it cannot be read."""

    @cached_property
    def duplicates(self) -> list[Duplicates]:
        """Every group of equal images."""
        return find_duplicates(self.parts, self.classes)

    @cached_property
    def per_class(self) -> dict[str, dict[Part, int]]:
        """Readable images of each class and part."""
        counts = {part: scanned.per_class(len(self.classes)) for part, scanned in self.parts.items()}
        return {name: {part: counts[part][c] for part in counts} for c, name in enumerate(self.classes)}

    @cached_property
    def problems(self) -> list[Problem]:
        """All there are, the worst first."""
        found = [*self._broken_test(), *self._unreadable(), *self._duplicated(), *self._thin(), *self._holdout()]
        return [problem for problem in found if problem.items]

    def _broken_test(self) -> Iterator[Problem]:
        items = (self.no_test,) if self.no_test and self.wants_test else ()
        yield Problem("test", "the test part cannot be used", items)

    def _unreadable(self) -> Iterator[Problem]:
        items = tuple(finding.problem for part in self.parts.values() for finding in part.unreadable)
        yield Problem(
            "unreadable",
            f"{_many(len(items), 'image')} that cannot be read; training stops there, or leaves them out: --on-bad-image skip",
            items,
        )

    def _duplicated(self) -> Iterator[Problem]:
        leaks = [group for group in self.duplicates if group.leak]
        tested = sum(copy.part == "test" for group in leaks for copy in group.copies)
        differ = [group for group in self.duplicates if group.labels_differ]
        plain = [group for group in self.duplicates if not (group.leak or group.labels_differ)]
        yield Problem(
            "leak",
            f"{_many(tested, 'test image')} that training sees too: the test's figures will flatter",
            tuple(map(str, leaks)),
        )
        yield Problem(
            "labels", f"{_many(len(differ), 'group')} of equal images with different labels", tuple(map(str, differ))
        )
        yield Problem(
            "duplicates",
            f"{_many(len(plain), 'group')} of equal images; one may be trained on and another held out",
            tuple(map(str, plain)),
        )

    def _thin(self) -> Iterator[Problem]:
        counts = {name: count["train"] for name, count in self.per_class.items()}
        empty = tuple(name for name, count in counts.items() if count == 0)
        few = [(name, count) for name, count in counts.items() if 0 < count < FEW]
        items = tuple(f"{name} ({count})" for name, count in sorted(few, key=lambda item: item[1]))
        untested = tuple(name for name, count in self.per_class.items() if count.get("test") == 0)
        yield Problem("empty", f"{_classes(len(empty))} without a readable training image", empty)
        yield Problem("thin", f"{_classes(len(items))} with fewer than {FEW} training images", items)
        yield Problem("untested", f"{_classes(len(untested))} without a readable test image", untested)

    def _holdout(self) -> Iterator[Problem]:
        count = len(self.parts["train"].readable)
        if count <= self.holdout:
            rest = f"{self.holdout:,} images would be set aside of {count:,}"
            yield Problem(
                "holdout", "the hold-out leaves nothing to train on", (f"{rest}; choose fewer with --holdout",)
            )

    def suggest(self) -> Suggestion:
        """A recipe that fits the size and number of the images, and the command that runs it."""
        train = self.parts["train"]
        side = min(train.sizes().get("median", (0, 0)))
        recipe, options, reason = _recipe(side, len(train.readable))
        path = str(self.path)
        if path in entries("data", "SOURCES"):  # the name alone would mean the data set of --data-root
            path = f"./{path}"
        words = ["offramp", "train", recipe, *options, "--data", path]
        if any(part.unreadable for part in self.parts.values()):
            words += ["--on-bad-image", "skip"]
        return Suggestion(recipe, shlex.join(words), reason)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        suggestion = self.suggest()
        return {
            "path": str(self.path), "images": {part: len(scanned.findings) for part, scanned in self.parts.items()},
            "no_test": self.no_test or None, "classes": self.per_class, "holdout": self.holdout,
            "sizes": {part: scanned.sizes() for part, scanned in self.parts.items()},
            "modes": {part: scanned.modes() for part, scanned in self.parts.items()},
            "unreadable": [
                {"part": part, "image": finding.name, "reason": finding.problem}
                for part, scanned in self.parts.items() for finding in scanned.unreadable
            ],
            "duplicates": [
                {
                    "copies": [{"part": one.part, "image": one.name, "class": one.class_name} for one in group.copies],
                    "leak": group.leak, "labels_differ": group.labels_differ,
                }
                for group in self.duplicates
            ],
            "problems": [
                {"kind": problem.kind, "text": problem.text, "items": list(problem.items)} for problem in self.problems
            ],
            "suggestion": {"recipe": suggestion.recipe, "command": suggestion.command, "reason": suggestion.reason},
        }  # fmt: skip


def _recipe(side: int, count: int) -> tuple[str, tuple[str, ...], str]:
    """Recipe, its options, and why, for so many images whose shorter side has so many pixels."""
    further = "trains the CIFAR-10 model of the package further"
    if side > SMALL and count >= _VERY_MANY:
        return "imagenet", (), "as many images as ImageNet's recipe is made for; takes GPUs and days"
    if side > SMALL:
        size = str(min(_SIZE, side // 8 * 8))
        return (
            "finetune",
            ("--init", "cifar10", "--size", size),
            f"{further}; a larger --size sees more and takes longer",
        )
    if count >= _MANY:
        reason = "small images, enough to start from nothing, on a GPU; paper-cifar has the paper's values"
        return "fast-cifar", (), reason
    return "finetune", ("--init", "cifar10"), f"small images, too few to start from nothing: {further}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s'[: count != 1]}"


def _classes(count: int) -> str:
    return f"{count:,} class{'es'[: 2 * (count != 1)]}"
