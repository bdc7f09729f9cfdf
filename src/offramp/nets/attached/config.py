"""The frozen description of a classifier that exits were attached to."""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from offramp.errors import ConfigError
from offramp.nets.base import MultiExitNet
from offramp.nets.config import Config

ChannelsAt = Literal["auto", "first", "last"]
OWN = "own"


@dataclass(frozen=True, kw_only=True)
class AttachedConfig(Config):
    """A classifier of any kind, and where exits were attached to it."""

    family: ClassVar[str] = "attached"
    kind: ClassVar[str] = "a network with attached exits"

    backbone: str
    """``timm:NAME@VERSION``, ``torchvision:NAME@VERSION``, or ``own`` for a module that only its owner can build."""
    at: tuple[str, ...] = ()
    """Modules, by their dotted names and in the order they run, behind which there is an exit; the last exit needs none."""
    channels_at: ChannelsAt = "auto"
    """Axis of the channels in what these modules give: first behind that of the samples, or last. ``auto`` takes four axes
    for a map with channels first, three for tokens with channels last."""
    least_size: int = 0
    """Shortest side in pixels that the classifier takes; 0 where only ``image_size`` is known to work."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "image_size")
        self.check_at_least(0, "least_size")
        self.check_choice("channels_at", get_args(ChannelsAt))
        if not isinstance(self.at, tuple) or not all(isinstance(name, str) and name for name in self.at):
            raise ConfigError(f"at={self.at!r}: give the names of modules, as named_modules() lists them")
        if len(set(self.at)) != len(self.at):
            raise ConfigError(f"at={self.at!r}: names a module twice; one exit stands behind each")
        kind, colon, name = self.backbone.partition(":")
        # No colon or slash: some packages take such names for addresses to download from.
        known = kind in ("timm", "torchvision") and colon and re.fullmatch(r"[\w.-]+", name.partition("@")[0])
        self.check_holds("backbone", self.backbone == OWN or bool(known), "timm:NAME, torchvision:NAME or own")

    @property
    def num_exits(self) -> int:
        """K."""
        return len(self.at) + 1

    @property
    def smallest_image(self) -> int:
        """Shortest side in pixels that the network takes."""
        return self.least_size or self.image_size

    def build(self) -> MultiExitNet:
        """The classifier with freshly initialised weights, and exits.

        Raises:
            ArtifactError: it is a module of one's own.
            ConfigError: its package has no such network, or it cannot be cut there.
            MissingExtraError: its package is not installed.
        """
        from offramp.nets.attached.backbones import build_backbone
        from offramp.nets.attached.net import AttachedNet

        return AttachedNet(self, build_backbone(self))
