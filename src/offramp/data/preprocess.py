"""Preprocessing for PyTorch: what :mod:`offramp_runtime.preprocess` does to arrays, done to tensors on any device."""

from dataclasses import dataclass

from torch import Tensor

import offramp_runtime.preprocess
from offramp.shapes import constant
from offramp_runtime.pictures import RESAMPLING, image_suffixes, open_image
from offramp_runtime.preprocess import Images, Interpolation

__all__ = ["RESAMPLING", "Images", "Interpolation", "Preprocessing", "image_suffixes", "open_image"]


@dataclass(frozen=True)
class Preprocessing(offramp_runtime.preprocess.Preprocessing):
    """What a model expects of its images; stored with it."""

    def normalize(self, images: Tensor) -> Tensor:
        """Normalised float (N, C, H, W), channels last in memory, of images (N, H, W, C) with values 0 … 255."""
        mean = constant(self.mean, images.device) * 255
        scale = 1 / (constant(self.std, images.device) * 255)
        return ((images.float() - mean) * scale).permute(0, 3, 1, 2)
