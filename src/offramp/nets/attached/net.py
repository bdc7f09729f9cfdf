"""A classifier cut into stages."""

import copy
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from offramp.errors import ArtifactError, ConfigError, reason
from offramp.nets.attached.backbones import misfit
from offramp.nets.attached.config import OWN, AttachedConfig
from offramp.nets.attached.split import Piece, in_mode, split
from offramp.nets.base import MultiExitNet, NetConfig, check_images
from offramp.nets.layers import answer_layers
from offramp.shapes import State


class AttachedExit(nn.Module):
    """Pooling over all but the channels, batch norm, linear layer.

    The norm makes features of any scale fit for the learning rate of a linear layer, also where the backbone is frozen.
    """

    def __init__(self, channels: int, axis: int, num_classes: int) -> None:
        super().__init__()
        self.axis = axis
        self.norm = nn.BatchNorm1d(channels)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, classes)."""
        others = [axis for axis in range(1, features.ndim) if axis != self.axis % features.ndim]
        pooled = features.mean(others) if others else features.clone()  # what follows may overwrite them
        return self.linear(self.norm(pooled))  # type: ignore[no-any-return]


class AttachedStage(nn.Module):
    """A piece of the classifier, and its exit.

    Args:
        piece: what it computes.
        classifier: the exit; the last one is the classifier's own, and nothing more.
    """

    def __init__(self, piece: Piece, classifier: nn.Module) -> None:
        super().__init__()
        self.body = piece.body
        self.exit = classifier
        self.overwrites = False
        """Whether a part of it changes what it reads, which whoever holds the state may still need."""

    def run(self, state: State) -> tuple[Tensor, State]:
        """What it ends with, and what later stages read."""
        if self.overwrites:
            state = tuple(None if part is None else part.clone() for part in state)
        end, kept = self.body(*state)
        return end, kept or (None,)

    def forward(self, state: State) -> tuple[State, Tensor]:
        """The next state and the logits (N, C)."""
        end, kept = self.run(state)
        return kept, self.exit(end)


class AttachedNet(MultiExitNet):
    """A classifier with exits between its modules; the last exit gives what the classifier gives.

    The state is what later stages read of what earlier ones have computed; behind the last it is empty.

    Args:
        config: where exits are.
        module: the classifier, from images to logits; its weights are used, not copied.

    Raises:
        ConfigError: it cannot be cut there, or does not take such images or give so many logits.
    """

    config: AttachedConfig

    def __init__(self, config: AttachedConfig, module: nn.Module) -> None:
        super().__init__()
        self.config = config
        weight = next(module.parameters(), torch.zeros(()))
        meta = weight.device.type == "meta"

        def example(count: int) -> Tensor:
            side = config.smallest_image  # where that is known, so that it takes less
            return torch.zeros(count, config.image_channels, side, side, device=weight.device, dtype=weight.dtype)

        try:
            pieces = split(module, config.at, example)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise _unfit(config, error) from None
        if pieces[-1].shape != (config.num_classes,):
            raise ConfigError(
                f"num_classes={config.num_classes}: the classifier gives values of shape {pieces[-1].shape} for an image"
            )
        if config.backbone == OWN:
            self.structure = hashlib.sha256("".join(map(_described, pieces)).encode()).hexdigest()
        exits = [_exit(piece, name, config) for piece, name in zip(pieces, config.at, strict=False)]
        exits = exits if meta else [one.to(weight.device, weight.dtype) for one in exits]
        self.stages = nn.ModuleList(
            AttachedStage(piece, one) for piece, one in zip(pieces, (*exits, nn.Identity()), strict=True)
        )
        theirs = set(module.modules())
        for part in self.modules():
            if part not in theirs:  # frozen norms of the classifier stay so
                part.training = module.training
        self._note_overwriting(example)
        if not meta:
            self._check_same(module, torch.rand_like(example(2)))

    @torch.inference_mode(False)  # there no changes are counted
    @torch.no_grad()
    def _note_overwriting(self, example: Callable[[int], Tensor]) -> None:
        state: State = (example(2),)
        with in_mode(self, training=False):
            for stage in self.cut:
                given = [part for part in state if part is not None]
                before = [part._version for part in given]
                _, state = stage.run(state)
                stage.overwrites = [part._version for part in given] != before

    @torch.no_grad()
    def _check_same(self, module: nn.Module, images: Tensor) -> None:
        with in_mode(module, training=False), in_mode(self, training=False):
            expected, found = module(images.clone()), self.direct(self.num_exits - 1, images.clone())
        if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
            raise ConfigError(
                f"at={self.config.at}: cut there, the classifier answers otherwise, as a part of it overwrites what others "
                "read; cut between other modules"
            )

    def start(self, images: Tensor) -> State:
        """State before stage 0: normalised images (N, C, H, W)."""
        check_images(images, self.config.image_channels, self.config.smallest_image)
        return (images,)

    def _direct(self, k: int, images: Tensor) -> Tensor:
        """Logits (N, C) of exit k, without earlier exits."""
        state = self.start(images)
        end = images
        for stage in self.cut[: k + 1]:
            end, state = stage.run(state)
        logits: Tensor = self.cut[k].exit(end)
        return logits

    @property
    def cut(self) -> list[AttachedStage]:
        """The stages."""
        return [stage for stage in self.stages if isinstance(stage, AttachedStage)]

    def rebuilt(self, config: NetConfig) -> MultiExitNet:
        """A network of ``config``, whose weights are to be replaced; see :meth:`MultiExitNet.rebuilt`."""
        assert isinstance(config, AttachedConfig)
        if config.backbone != OWN:
            return config.build()
        if config.num_classes != self.config.num_classes or config.image_channels != self.config.image_channels:
            raise ConfigError(
                f"the exits were attached to a module of one's own for {self.config.num_classes} classes and images of "
                f"{self.config.image_channels} channels; attach them to one for this data"
            )
        if config.at != self.config.at or config.channels_at != self.config.channels_at:
            raise ConfigError(f"backbone: its exits are at {self.config.at}, those of the model at {config.at}")
        twin = copied(self).requires_grad_(True)
        for stage in twin.stages:
            for _, layer in answer_layers(stage, config.num_classes):
                layer.reset_parameters()
        twin.config = config
        twin._try(config)
        return twin

    @torch.no_grad()
    def _try(self, config: AttachedConfig) -> None:
        weight, side = next(self.parameters(), torch.zeros(())), config.image_size
        images = torch.zeros(2, config.image_channels, side, side, device=weight.device, dtype=weight.dtype)
        try:
            with in_mode(self, training=False):
                self.direct(self.num_exits - 1, images)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise _unfit(config, error) from None

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As modules do.

        Raises:
            ArtifactError: these are the weights of another backbone.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            raise ArtifactError(
                f"the weights do not fit this backbone, which has to be as {self.config.backbone} was when it was saved "
                f"({misfit(error)}); install that version, or pass the same module"
            ) from None


M = TypeVar("M", bound=nn.Module)


def copied(module: M) -> M:
    """A copy of it.

    Raises:
        ConfigError: it holds something that cannot be copied.
    """
    try:
        return copy.deepcopy(module)
    except Exception as error:  # whatever a part of somebody's module raises
        raise ConfigError(f"backbone: the module cannot be copied ({reason(error)}); pass one that can") from None


def _unfit(config: AttachedConfig, error: Exception) -> ConfigError:
    return ConfigError(
        f"the classifier does not take images of {config.image_channels}x{config.image_size}x{config.image_size} "
        f"({reason(error)}); say image_size and image_channels"
    )


def _described(piece: Piece) -> str:
    """Code around the cuts, and of each module the class and what plain values it was made with."""
    lines = [piece.body.code]
    for name, part in piece.body.named_modules():
        plain = {key: value for key, value in vars(part).items() if isinstance(value, bool | int | float | str)}
        plain.pop("training")
        lines.append(f"{name} {type(part).__qualname__} {sorted(plain.items())}\n")
    return "".join(lines)


def _exit(piece: Piece, name: str, config: AttachedConfig) -> AttachedExit:
    axes = len(piece.shape) + 1
    if axes < 2:
        raise ConfigError(f"at: '{name}' gives one number per image; cut behind a module that gives features")
    last = config.channels_at == "last" or (config.channels_at == "auto" and axes == 3)
    axis = axes - 1 if last else 1
    return AttachedExit(piece.shape[axis - 1], axis, config.num_classes)
