"""Augmentation of single images before they are in a batch, by the workers that decode them."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance

from offramp.data.preprocess import RESAMPLING, Interpolation

_RATIO = (3 / 4, 4 / 3)
"""Narrowest and widest shape of a random-resized crop."""
_ATTEMPTS = 10
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def image_rng(seed: int, epoch: int, row: int) -> np.random.Generator:
    """The draws of one image in one epoch; in no way dependent on others or on the worker."""
    return np.random.default_rng((seed, epoch, row, 1))


@dataclass(frozen=True)
class ImageAugment:
    """Random-resized crop, colour jitter, RandAugment, each where asked for, in this order."""

    size: int
    """Side of the result in pixels, where there is a crop."""
    area: tuple[float, ...]
    """Smallest and largest share of the image's area in the crop; empty leaves the image as it comes."""
    interpolation: Interpolation
    color_jitter: float
    """Brightness, contrast and saturation are scaled by 1 ± this at most, in random order."""
    randaugment: tuple[int, ...]
    """Operations per image and magnitude 0 … 30 (Cubuk et al., arXiv:1909.13719), done by torchvision; empty does without."""
    fill: tuple[int, ...]
    """Colour of what rotations uncover, (C,)."""

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """The augmented image.

        Raises:
            MissingExtraError: RandAugment without torchvision.
        """
        if self.area:
            box = crop_box(image.size, (self.area[0], self.area[1]), rng)
            image = image.resize((self.size, self.size), RESAMPLING[self.interpolation], box=box, reducing_gap=3.0)
        if self.color_jitter:
            image = _jittered(image, self.color_jitter, rng)
        if self.randaugment:
            image = self._randaugmented(image, rng)
        return image

    def _randaugmented(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        from offramp.torchvision_import import import_torchvision

        operations, magnitude = self.randaugment
        transforms = import_torchvision("torchvision.transforms.v2", "RandAugment")
        augment = transforms.RandAugment(operations, magnitude, fill=list(self.fill))
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.manual_seed(int(rng.integers(2**63)))
            augmented: Image.Image = augment(image)
        return augmented


def crop_box(size: tuple[int, int], area: tuple[float, float], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random crop (left, top, right, bottom) of an image of ``size`` (width, height).

    Its share of the area is uniform, the logarithm of its shape too (Szegedy et al., arXiv:1409.4842, section 6). If it
    fits nowhere in ten attempts, the largest allowed crop of the centre is taken.
    """
    width, height = size
    for _ in range(_ATTEMPTS):
        wanted = width * height * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, max(1, round(height * _RATIO[1]))), min(height, max(1, round(width / _RATIO[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _jittered(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    for place in rng.permutation(len(_ENHANCERS)).tolist():
        image = _ENHANCERS[place](image).enhance(rng.uniform(1 - strength, 1 + strength))
    return image
