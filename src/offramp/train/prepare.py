"""From a batch of pixels to what the network is trained on: augmentation of whole batches on the device."""

from torch import Tensor

from offramp.data.augment import cutout, draws, lighting, mixup, mixup_weight, pad_crop_flip
from offramp.data.preprocess import Preprocessing
from offramp.train.feed import Batch
from offramp.train.recipe import Recipe

_CROP, _CUTOUT, _LIGHT = slice(0, 3), slice(3, 5), slice(5, 11)
"""Which draws of a sample serve what."""


def prepare(batch: Batch, recipe: Recipe, preprocessing: Preprocessing, num_classes: int) -> tuple[Tensor, Tensor]:
    """Normalised images (N, C, H, W), and labels (N,) or, mixed up, class probabilities (N, C).

    Every draw is a function of (seed, epoch, index), but for the weight of a mix-up, which is one of (seed, epoch, batch).
    """
    images, fill = batch.images, preprocessing.fill
    random = draws(recipe.seed, batch.epoch, batch.rows, 11)
    if recipe.crop_pad or recipe.flip:
        images = pad_crop_flip(images, random[:, _CROP], pad=recipe.crop_pad, flip=recipe.flip, fill=fill)
    if recipe.cutout:
        images = cutout(images, random[:, _CUTOUT], size=recipe.cutout, fill=fill)
    if recipe.lighting:
        images = lighting(images, random[:, _LIGHT], strength=recipe.lighting)
    pixels = preprocessing.normalize(images)
    if not recipe.channels_last:
        pixels = pixels.contiguous()
    if not recipe.mixup:
        return pixels, batch.labels
    weight = mixup_weight(recipe.mixup, recipe.seed, batch.epoch, batch.place)
    return mixup(pixels, batch.labels, weight=weight, num_classes=num_classes)
