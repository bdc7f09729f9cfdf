"""Recipes for ImageNet: ``data-root/imagenet/train/CLASS/*`` and ``val/CLASS/*``.

``imagenet`` has the paper's values and the authors' Lua augmentation (Huang et al., arXiv:1703.09844, section 5;
gaohuang/MSDNet): 90 epochs, batch 256, tenths at 30 and 60, random-resized crop, colour jitter, PCA lighting, flip, 50,000
images held out, shorter side 256 and centre 224 afterwards. ``imagenet-bilinear`` is what the PyTorch port does: bilinear,
neither jitter nor lighting. Neither has been run; no accuracy is claimed.
"""

from dataclasses import replace

from offramp.train.recipe import Recipe

_PAPER = Recipe(
    variant="msdnet-imagenet-4-paper",
    source="imagenet",
    epochs=90,
    batch_size=256,
    learning_rate=0.1,
    schedule="multistep",
    milestones=(1 / 3, 2 / 3),
    crop_area=(0.08, 1.0),
    color_jitter=0.4,
    lighting=0.1,
    drop_last=False,
)

RECIPES = {
    "imagenet": _PAPER,
    "imagenet-bilinear": replace(_PAPER, interpolation="bilinear", color_jitter=0.0, lighting=0.0),
}
