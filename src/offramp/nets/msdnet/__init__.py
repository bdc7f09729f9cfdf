"""Multi-scale dense networks (MSDNet; Huang et al., arXiv:1703.09844) and their named variants.

Sources of the variants: the paper's appendix (depths, base widths) and the READMEs of the authors' Lua code and of its
PyTorch port. "released" ImageNet networks have base = step, as the downloadable weights do; the paper's text has
base = step + 3.
"""

from offramp.nets.msdnet.config import MSDNetConfig
from offramp.nets.msdnet.net import MSDNet
from offramp.nets.msdnet.plan import plain_plan, plan

__all__ = ["CONFIG", "VARIANTS", "MSDNet", "MSDNetConfig", "plain_plan", "plan"]

CONFIG = {"msdnet": MSDNetConfig}


def _imagenet(base: int, step: int) -> MSDNetConfig:
    return MSDNetConfig(
        exits=5, base=base, step=step, channels=32, growth_rate=16, scale_factors=(1, 2, 4, 4),
        bottleneck_factors=(1, 2, 4, 4), stem="large", image_size=224, num_classes=1000,
    )  # fmt: skip


VARIANTS: dict[str, MSDNetConfig] = {
    "msdnet-digits": MSDNetConfig(
        exits=4, base=1, step=1, spacing="linear", channels=4, growth_rate=2, image_channels=1
    ),
    **{f"msdnet-cifar-anytime-{exits}": MSDNetConfig(exits=exits, base=4, step=2) for exits in (7, 10, 11)},
    **{
        f"msdnet-cifar-batch-{exits}": MSDNetConfig(exits=exits, base=1, step=1, spacing="linear")
        for exits in range(3, 9)
    },
    **{f"msdnet-imagenet-{step}": _imagenet(step, step) for step in (4, 6, 7)},
    **{f"msdnet-imagenet-{step}-paper": _imagenet(step + 3, step) for step in (4, 6, 7)},
}
