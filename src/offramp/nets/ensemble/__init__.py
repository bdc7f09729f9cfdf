"""Ensembles as networks with exits, and their named variants.

The ensembles of Huang et al., arXiv:1703.09844, section 5: ResNets, DenseNets-BC and DenseNets* of rising size, on ImageNet
ResNets of 10 to 50 layers. Which sizes they took on CIFAR they do not say; those here are ours.
"""

from offramp.nets.densenet import VARIANTS as DENSENETS
from offramp.nets.ensemble.config import EnsembleConfig
from offramp.nets.ensemble.net import Ensemble
from offramp.nets.resnet import VARIANTS as RESNETS

__all__ = ["CONFIG", "VARIANTS", "Ensemble", "EnsembleConfig"]

CONFIG = {"ensemble": EnsembleConfig}

VARIANTS: dict[str, EnsembleConfig] = {
    "ensemble-cifar-small": EnsembleConfig.of(*(RESNETS[f"resnet-cifar-{depth}"] for depth in (8, 14))),
    "ensemble-cifar-resnet": EnsembleConfig.of(*(RESNETS[f"resnet-cifar-{depth}"] for depth in (20, 32, 44, 56, 110))),
    "ensemble-cifar-densenet": EnsembleConfig.of(
        DENSENETS["densenet-cifar-bc-40-12"],
        DENSENETS["densenet-cifar-bc-100-12"],
        DENSENETS["densenet-cifar-bc-40-36"],
    ),
    "ensemble-cifar-star": EnsembleConfig.of(*(DENSENETS[f"densenet-cifar-star-{depth}"] for depth in (40, 64, 100))),
    "ensemble-imagenet-resnet": EnsembleConfig.of(*(RESNETS[f"resnet-{depth}"] for depth in (10, 18, 26, 34, 50))),
}
