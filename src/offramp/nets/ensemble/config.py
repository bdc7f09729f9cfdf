"""The frozen description of an ensemble."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from offramp.catalog import entries, suggest
from offramp.errors import ConfigError
from offramp.nets.base import MultiExitNet, NetConfig
from offramp.nets.config import Config

_SHARED = ("image_channels", "image_size", "num_classes")


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig(Config):
    """Networks one after the other, each answering with the mean of the probabilities so far."""

    family: ClassVar[str] = "ensemble"
    kind: ClassVar[str] = "an ensemble"

    members: tuple[NetConfig, ...]
    """In the order they are run; of each the last exit counts."""

    @classmethod
    def of(cls, *members: NetConfig) -> Self:
        """Of members that agree on images and classes.

        Raises:
            ConfigError: none, or they do not.
        """
        if not members:
            raise ConfigError("members=(): an ensemble wants at least one network")
        first = members[0]
        return cls(
            members=members,
            image_channels=first.image_channels,
            image_size=first.image_size,
            num_classes=first.num_classes,
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.members, tuple) or not self.members:
            raise ConfigError(f"members={self.members!r}: an ensemble wants at least one network")
        for member in self.members:
            for field in _SHARED:
                ours, theirs = getattr(self, field), getattr(member, field)
                if ours != theirs:
                    raise ConfigError(
                        f"{field}={theirs} of a member of family '{member.family}': the ensemble has {ours}; "
                        "take networks for the same images and classes"
                    )

    @property
    def num_exits(self) -> int:
        """K, one for each member."""
        return len(self.members)

    @property
    def smallest_image(self) -> int:
        """Shortest side in pixels that all members take."""
        return max(member.smallest_image for member in self.members)

    def build_plain(self) -> MultiExitNet:
        """Of the members as public code evaluates them."""
        from offramp.nets.ensemble.net import Ensemble

        return Ensemble(self, [member.build_plain() for member in self.members])

    def build(self) -> MultiExitNet:
        """The ensemble with freshly initialised members."""
        from offramp.nets.ensemble.net import Ensemble

        return Ensemble(self, [member.build() for member in self.members])

    def replace(self, **changes: object) -> Self:
        """A copy with some fields changed; what all members share is changed in them too."""
        shared = {field: value for field, value in changes.items() if field in _SHARED}
        members = changes.pop("members", self.members)
        assert isinstance(members, tuple)
        changed = tuple(member.replace(**shared) for member in members)
        return dataclasses.replace(self, members=changed, **changes)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        shared = {field: getattr(self, field) for field in _SHARED}
        return shared | {"members": [{"family": one.family, "net": one.to_json()} for one in self.members]}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ConfigError: an unknown or missing field, an unknown family, or a value that breaks a rule.
        """
        if set(fields) != {*_SHARED, "members"}:
            differing = ", ".join(sorted(set(fields) ^ {*_SHARED, "members"}))
            raise ConfigError(f"fields {differing} are unknown or missing in an ensemble")
        families = entries("nets", "CONFIG")
        members = []
        for one in fields["members"]:
            if one["family"] not in families:
                raise ConfigError(f"network family '{one['family']}' is unknown; {suggest(one['family'], families)}")
            members.append(families[one["family"]].from_json(one["net"]))
        return cls(members=tuple(members), **{field: fields[field] for field in _SHARED})
