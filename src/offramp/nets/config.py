"""What the configs of all families share."""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

from offramp.errors import ConfigError
from offramp.nets.base import MultiExitNet


@dataclass(frozen=True, kw_only=True)
class Config(ABC):
    """A frozen description of one network; a :class:`~offramp.nets.base.NetConfig`."""

    family: ClassVar[str]
    kind: ClassVar[str]
    """What messages call such a network, with its article."""

    image_channels: int = 3
    image_size: int = 32
    """Side in pixels that costs are quoted for; larger and smaller images work too."""
    num_classes: int = 10

    def __post_init__(self) -> None:
        self.check_at_least(1, "image_channels")
        self.check_at_least(2, "num_classes")

    @property
    def num_exits(self) -> int:
        """K."""
        return 1

    @property
    @abstractmethod
    def smallest_image(self) -> int:
        """Shortest side in pixels that the network takes."""

    @abstractmethod
    def build(self) -> MultiExitNet:
        """The network with freshly initialised weights."""

    def build_plain(self) -> MultiExitNet:
        """The network as public code evaluates it, computing what no exit asked for; for comparison of costs."""
        return self.build()

    def replace(self, **changes: object) -> Self:
        """A copy with some fields changed, checked anew."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ConfigError: an unknown or missing field, or a value that breaks a rule.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != names:
            raise ConfigError(f"fields {', '.join(sorted(set(fields) ^ names))} are unknown or missing in {cls.kind}")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        return cls(**values)

    def check_at_least(self, least: int, *fields: str) -> None:
        """Refuse what is not a whole number, or too small; of a tuple every entry.

        Raises:
            ConfigError: naming field, value and rule.
        """
        for field in fields:
            given = getattr(self, field)
            for value in given if isinstance(given, tuple) else (given,):
                if not isinstance(value, int) or isinstance(value, bool) or value < least:
                    raise ConfigError(f"{field}={value!r}: {self.kind} wants a whole number of at least {least} here")

    def check_choice(self, field: str, choices: tuple[str, ...]) -> None:
        """Refuse what is none of these.

        Raises:
            ConfigError: naming field, value and choices.
        """
        if getattr(self, field) not in choices:
            raise ConfigError(f"{field}={getattr(self, field)!r}: choose one of {', '.join(choices)}")

    def check_counts(self, field: str, per: str) -> None:
        """Refuse what is not a tuple of whole numbers of at least 1.

        Raises:
            ConfigError: naming field, value and rule.
        """
        counts = getattr(self, field)
        if not isinstance(counts, tuple) or not counts:
            raise ConfigError(f"{field}={counts!r}: give a tuple with one whole number per {per}")
        self.check_at_least(1, field)

    def check_exits(self, field: str, most: int, what: str) -> None:
        """Refuse places of exits that are none.

        Raises:
            ConfigError: naming field, value and rule.
        """
        places = getattr(self, field)
        if (
            not isinstance(places, tuple)
            or any(type(place) is not int for place in places)
            or any(before >= after for before, after in pairwise((0, *places, most)))
        ):
            raise ConfigError(
                f"{field}={places!r}: give rising {what} from 1 to {most - 1}; the last exit needs no entry"
            )

    def check_per(self, field: str, of: str, per: str) -> None:
        """Refuse a tuple of another length than another's.

        Raises:
            ConfigError: naming both.
        """
        ours, theirs = getattr(self, field), getattr(self, of)
        if len(ours) != len(theirs):
            raise ConfigError(f"{field}={ours}: wants one entry per {per}, and {of} has {len(theirs)}")

    def check_holds(self, field: str, holds: bool, rule: str) -> None:
        """Refuse a value that breaks a rule.

        Raises:
            ConfigError: naming field, value and rule.
        """
        if not holds:
            raise ConfigError(f"{field}={getattr(self, field)!r}: must be {rule}")
