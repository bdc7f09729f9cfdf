"""Classifiers of any kind as networks with exits, and those of other packages that papers compare with.

AlexNet, GoogLeNet and VGG-16 are torchvision's, MobileNet (the first) is timm's; they are listed where these packages are
installed, and have but their own exit.
"""

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import nn

from offramp.errors import ConfigError, reason
from offramp.nets.attached.backbones import other_than, recognised, with_version
from offramp.nets.attached.config import OWN, AttachedConfig, ChannelsAt
from offramp.nets.attached.net import AttachedNet, copied
from offramp.nets.attached.split import in_mode
from offramp.nets.base import MultiExitNet, NetConfig

__all__ = ["CONFIG", "OWN", "VARIANTS", "AttachedConfig", "AttachedNet", "attach_exits", "attached_to"]

CONFIG = {"attached": AttachedConfig}


def attach_exits(
    module: nn.Module,
    at: Sequence[str],
    *,
    image_size: int = 224,
    image_channels: int = 3,
    channels_at: ChannelsAt = "auto",
    backbone: str = "",
) -> AttachedNet:
    """A network with an exit behind each of some modules of a classifier, and the classifier's own answer as the last.

    The new exits are pooling, batch norm and a linear layer, and have to be trained: wrap the network in a
    :class:`offramp.Classifier`, save it, and run ``offramp train finetune --init MODEL --freeze backbone``; for a module of
    one's own, which no command can build, :class:`offramp.train.run.Run` with ``init=``.

    Args:
        module: any classifier, from normalised images (N, C, H, W) to logits (N, classes). Its weights are used, not copied.
        at: names of modules as ``named_modules()`` lists them, in the order they run, such as ``["layer1", "layer2"]``.
        image_size: side in pixels of the images it is for.
        image_channels: of them.
        channels_at: where the channels of what these modules give are: ``first`` or ``last`` axis of a sample; ``auto`` takes
            maps of four axes for the first kind and tokens of three for the second.
        backbone: ``timm:NAME`` or ``torchvision:NAME`` where that builds the module; a saved model is then built from it.
            timm's networks are recognised. Of any other module only the weights are saved; it is passed again at
            ``offramp.load(PATH, backbone=MODULE)``.

    Raises:
        ConfigError: no such modules, or they cannot be cut there, or the images do not suit; another network than
            ``backbone`` names; no module at all, or weights that are not float32.
    """
    if not isinstance(module, nn.Module):
        raise ConfigError(f"module={module!r}: pass the module itself, an instance of nn.Module")
    if any(weight.dtype != torch.float32 for weight in module.parameters()):
        raise ConfigError(
            "the module has weights that are not float32; give it as module.float(), precision is chosen later"
        )
    if isinstance(at, str):
        raise ConfigError(f"at={at!r}: give a list of names, such as at=[{at!r}]")
    config = AttachedConfig(
        backbone=with_version(backbone or OWN),
        at=tuple(at),
        image_size=image_size,
        image_channels=image_channels,
        channels_at=channels_at,
    )
    config = config.replace(num_classes=_classes(module, image_size, image_channels))
    if config.backbone == OWN:
        return AttachedNet(config.replace(backbone=recognised(module, config)), module)
    wrong = other_than(module, config)
    if wrong:
        raise ConfigError(f"backbone={config.backbone}: builds another network ({wrong}); leave it out")
    return AttachedNet(config, module)


def attached_to(backbone: nn.Module, config: NetConfig) -> MultiExitNet:
    """The network of a saved config, with a copy of a module of one's own in it.

    Args:
        backbone: such a module as exits were attached to, or the network with its exits.
        config: where they are.

    Raises:
        ConfigError: the config is of another family, or the module cannot be cut so.
    """
    if not isinstance(backbone, nn.Module):
        raise ConfigError(f"backbone={backbone!r}: pass the module itself, an instance of nn.Module")
    if not isinstance(config, AttachedConfig):
        raise ConfigError(f"backbone: no exits were attached to this network of family '{config.family}'; leave it out")
    if isinstance(backbone, AttachedNet):
        return backbone.rebuilt(config)
    try:
        return AttachedNet(config, copied(backbone))
    except ConfigError as error:
        raise ConfigError(f"backbone: not such a module as this model's exits were attached to ({error})") from None


@torch.no_grad()
def _classes(module: nn.Module, side: int, channels: int) -> int:
    weight = next(module.parameters(), torch.zeros(()))
    try:
        with in_mode(module, training=False):
            answer = module(torch.zeros(2, channels, side, side, device=weight.device, dtype=weight.dtype))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise ConfigError(
            f"the module does not take images of {channels}x{side}x{side} ({reason(error)}); say image_size and image_channels"
        ) from None
    if not isinstance(answer, torch.Tensor) or answer.ndim != 2 or len(answer) != 2 or answer.shape[1] < 2:
        what = f"shape {tuple(answer.shape)}" if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise ConfigError(f"the module gives {what} for two images; exits are attached to a classifier, (N, classes)")
    return answer.shape[1]


def _entry(backbone: str, least_size: int) -> AttachedConfig:
    return AttachedConfig(
        backbone=with_version(backbone), image_size=224, num_classes=1000, least_size=least_size
    )  # fmt: skip


VARIANTS: dict[str, AttachedConfig] = {
    **(
        {
            "alexnet": _entry("torchvision:alexnet", 63),
            "googlenet": _entry("torchvision:googlenet", 32),
            "vgg-16": _entry("torchvision:vgg16", 32),
        }
        if find_spec("torchvision")
        else {}
    ),
    **({"mobilenet": _entry("timm:mobilenetv1_100", 32)} if find_spec("timm") else {}),
}
