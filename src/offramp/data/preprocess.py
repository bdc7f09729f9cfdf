"""Preprocessing for PyTorch: what :mod:`offramp_runtime.preprocess` does to arrays, done to tensors on any device."""

from dataclasses import dataclass
from functools import lru_cache

import torch
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
        mean, scale = _of_bytes(self.mean, self.std, images.device)
        return ((images.float() - mean) * scale).permute(0, 3, 1, 2)


@lru_cache(maxsize=64)
def _of_bytes(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """What is taken off values 0 … 255, and what they are then multiplied by; made once, as :func:`constant` is."""
    with torch.inference_mode(False):
        return constant(mean, device) * 255, 1 / (constant(std, device) * 255)
