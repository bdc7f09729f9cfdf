"""From the options of the authors' program, as the oracles record them, to our configurations."""

from typing import Any, Literal

from offramp.nets.msdnet import MSDNetConfig

CLASSES = {"cifar10": 10, "cifar100": 100, "ImageNet": 1000}
SPACINGS: dict[str, Literal["even", "linear"]] = {"even": "even", "lin_grow": "linear"}


def config_of(args: dict[str, Any]) -> MSDNetConfig:
    large = args["data"] == "ImageNet"
    return MSDNetConfig(
        exits=args["nBlocks"],
        base=args["base"],
        step=args["step"],
        spacing=SPACINGS[args["stepmode"]],
        channels=args["nChannels"],
        growth_rate=args["growthRate"],
        scale_factors=tuple(args["grFactor"]),
        bottleneck_factors=tuple(args["bnFactor"]),
        bottleneck=args["bottleneck"],
        reduction=args["reduction"],
        pruning=args["prune"],
        stem="large" if large else "small",
        image_size=224 if large else 32,
        num_classes=CLASSES[args["data"]],
    )
