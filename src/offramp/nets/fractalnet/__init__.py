"""Fractal networks and their named variants.

Larsson et al., arXiv:1605.07648, section 4: five blocks of 64 to 512 channels and three columns make 20 layers, with dropout
of 0 to 40 % from block to block. So described its convolutions have 33.7 million parameters, while the paper's table says
38.6; what the rest is it does not say. ``small`` is ours, about 40 million MACs with all exits, for experiments on a small
machine.
"""

from offramp.nets.fractalnet.config import FractalNetConfig
from offramp.nets.fractalnet.net import FractalNet

__all__ = ["CONFIG", "VARIANTS", "FractalNet", "FractalNetConfig"]

CONFIG = {"fractalnet": FractalNetConfig}

VARIANTS: dict[str, FractalNetConfig] = {
    "fractalnet-cifar-20": FractalNetConfig(widths=(64, 128, 256, 512, 512), dropout=0.4),
    "fractalnet-cifar-small": FractalNetConfig(widths=(10, 20, 40, 80)),
}
