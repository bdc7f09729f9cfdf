"""Recipes for DenseNets and CondenseNets, with their authors' values.

``densenet`` (Huang et al., arXiv:1608.06993, section 4.2; liuzhuang13/DenseNet): 300 epochs, batch 64, tenths at 150 and 225.
``densenet-cosine`` is the schedule of that repository's ``cosine`` networks. ``densenet-plain`` is for images as they are,
without augmentation, for which dropout of 0.2 takes its place. ``condensenet`` (Huang et al., arXiv:1711.09224, section 5;
ShichenLiu/CondenseNet): 300 epochs of one cosine, half of them while the groups are found. ``condensenet-imagenet``: 120
epochs, batch 256, a group lasso of 1e-5. Another network of the family takes the place of a recipe's with ``--set
variant=NAME``; condensenet-cifar-182 wants ``epochs=600`` and ``dropout=0.1``. None has been run to its end yet, so no
accuracy is claimed.
"""

from dataclasses import replace

from offramp.recipes.cifar import RECIPES as CIFAR
from offramp.train.recipe import Recipe

# The MSDNet paper trains as DenseNets are trained.
_DENSENET = replace(CIFAR["paper-cifar"], variant="densenet-cifar-bc-100-12", recompute="layers")
_COSINE = replace(_DENSENET, schedule="cosine")

RECIPES = {
    "densenet": _DENSENET,
    "densenet-cosine": _COSINE,
    "densenet-plain": replace(_DENSENET, crop_pad=0, flip=False, dropout=0.2),
    "condensenet": replace(_COSINE, variant="condensenet-cifar-86"),
    "condensenet-imagenet": Recipe(
        variant="condensenet-imagenet-74-4",
        source="imagenet",
        epochs=120,
        batch_size=256,
        learning_rate=0.1,
        crop_area=(0.08, 1.0),
        group_lasso=1e-5,
        drop_last=False,
        recompute="layers",
    ),
}
