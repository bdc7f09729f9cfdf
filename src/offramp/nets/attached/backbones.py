"""Classifiers of other packages, by name."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from textwrap import shorten
from typing import Any

import torch
from torch import nn

from offramp.errors import ArtifactError, ConfigError, MissingExtraError, reason
from offramp.nets.attached.config import OWN, AttachedConfig
from offramp.nets.attached.split import in_mode
from offramp.torchvision_import import import_torchvision

# GoogLeNet would give the logits of its two training exits too, which are none to stop at.
_TORCHVISION: dict[str, dict[str, Any]] = {"googlenet": {"aux_logits": False, "init_weights": True}}


def build_backbone(config: AttachedConfig) -> nn.Module:
    """The classifier of a config, freshly initialised.

    Raises:
        ArtifactError: it is a module of one's own.
        ConfigError: its package has no such network.
        MissingExtraError: its package is not installed.
    """
    if config.backbone == OWN:
        raise ArtifactError(
            "exits were attached to a module of one's own, which no file can build; pass it again in Python: "
            "offramp.load(PATH, backbone=MODULE)"
        )
    source, _, name = config.backbone.partition("@")[0].partition(":")
    build = _timm if source == "timm" else _torchvision
    try:
        return build(name, config)
    except MissingExtraError:
        raise
    except Exception as error:  # whatever another package raises at a name or a number it does not know
        here = version(source)
        raise ConfigError(
            f"backbone={config.backbone}: {source} {here} does not build it ({reason(error)}); "
            f"see the names it has, or install the version it was made with"
        ) from None


def with_version(backbone: str) -> str:
    """``timm:NAME`` with the version that is installed, if one is."""
    source, _, name = backbone.partition(":")
    if backbone == OWN or "@" in name:
        return backbone
    try:
        return f"{backbone}@{version(source)}"
    except PackageNotFoundError:
        return backbone


def recognised(module: nn.Module, config: AttachedConfig) -> str:
    """``timm:NAME@VERSION`` where that builds such a module; else ``own``.

    Args:
        module: any.
        config: for its classes and images.
    """
    name = getattr(module, "pretrained_cfg", {}).get("architecture")
    if not name or not type(module).__module__.startswith("timm."):
        return OWN
    named = config.replace(backbone=with_version(f"timm:{name}"))
    try:
        return OWN if other_than(module, named) else named.backbone
    except ConfigError:
        return OWN


def other_than(module: nn.Module, config: AttachedConfig) -> str:
    """In what the network that a config names differs from a module; empty where it does not.

    Raises:
        ConfigError: no such network can be built.
        MissingExtraError: its package is not installed.
    """
    twin = build_backbone(config)
    try:
        twin.load_state_dict(module.state_dict())
    except RuntimeError as error:
        return misfit(error)
    if repr(twin) != repr(module):
        return "other layers"
    try:
        return "" if _answers_alike(twin, module, config) else "other answers"
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        return reason(error)


def misfit(error: RuntimeError) -> str:
    """What PyTorch says last about weights that do not fit; on one line, not all of the names it lists."""
    return shorten(str(error).strip().rpartition("\n")[2], 150, placeholder=" …")


@torch.no_grad()
def _answers_alike(twin: nn.Module, module: nn.Module, config: AttachedConfig) -> bool:
    weight, side = next(module.parameters()), config.image_size
    images = torch.rand(2, config.image_channels, side, side, device=weight.device, dtype=weight.dtype)
    with in_mode(module, training=False):
        expected = module(images.clone())
    found = twin.to(weight.device, weight.dtype).eval()(images)
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def _timm(name: str, config: AttachedConfig) -> nn.Module:
    import_torchvision("torchvision", "timm")  # which timm imports, without knowing how
    try:
        from timm import create_model
    except ModuleNotFoundError:
        raise MissingExtraError(
            f"backbone {config.backbone} needs timm, which is not installed: pip install 'offramp[timm]'"
        ) from None
    make: Callable[..., nn.Module] = create_model
    return make(name, pretrained=False, num_classes=config.num_classes, in_chans=config.image_channels)


def _torchvision(name: str, config: AttachedConfig) -> nn.Module:
    models = import_torchvision("torchvision.models", f"backbone {config.backbone}")
    if name not in models.list_models(module=models):
        raise ValueError("it has no classifier of that name")
    if config.image_channels != 3:
        raise ValueError("its networks take images of 3 channels")
    module: nn.Module = models.get_model(
        name, weights=None, num_classes=config.num_classes, **_TORCHVISION.get(name, {})
    )
    return module
