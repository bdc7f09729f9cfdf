"""Augmentation of whole batches on the device; every draw is a function of (seed, epoch, index)."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from offramp.shapes import constant

_MASK = 0xFFFFFFFF

_EIGENVALUES = (0.2175, 0.0188, 0.0045)
_EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Principal components of ImageNet's RGB values in 0 … 1, one per column (Krizhevsky et al., NeurIPS 2012, section 4.1;
the figures every ImageNet recipe of the family uses)."""


def draws(seed: int, epoch: int, indices: Tensor, count: int) -> Tensor:
    """Random integers in [0, 2^32), (N, count) int64, one row per sample index.

    A counter-based hash (the 32-bit finaliser of MurmurHash3, applied per counter), so there is no generator state to
    save: the same sample of the same epoch gets the same draws on any device, in any batch, after any resume.
    """
    lane = torch.arange(count, device=indices.device)
    mixed = _mix(torch.full_like(lane, seed & _MASK) ^ _mix(lane + 1))
    mixed = _mix(mixed ^ (epoch * 0x9E3779B1 & _MASK))
    return _mix(_mix(indices[:, None] & _MASK) ^ mixed[None, :])


def pad_crop_flip(images: Tensor, random: Tensor, *, pad: int, flip: bool, fill: tuple[int, ...]) -> Tensor:
    """Pad each side, crop at random to the old size, flip half of the images left to right.

    Args:
        images: uint8 (N, H, W, C).
        random: (N, 3) draws in [0, 2^32).
        pad: pixels added on each side.
        flip: whether to flip at all.
        fill: colour of the padding, (C,). The paper pads after normalising, with zeros: so with the mean colour.
    """
    count, height, width, _ = images.shape
    canvas = constant(fill, images.device, torch.uint8).repeat(count, height + 2 * pad, width + 2 * pad, 1)
    canvas[:, pad : pad + height, pad : pad + width] = images
    rows = torch.arange(height, device=images.device) + _below(random[:, 0:1], 2 * pad + 1)
    cols = torch.arange(width, device=images.device) + _below(random[:, 1:2], 2 * pad + 1)
    if flip:
        cols = torch.where(_below(random[:, 2:3], 2).bool(), cols.flip(1), cols)
    sample = torch.arange(count, device=images.device)[:, None, None]
    return canvas[sample, rows[:, :, None], cols[:, None, :]]


def cutout(images: Tensor, random: Tensor, *, size: int, fill: tuple[int, ...]) -> Tensor:
    """Blank a square at a random place of each image (DeVries and Taylor, arXiv:1708.04552); it may stick out.

    Args:
        images: uint8 (N, H, W, C).
        random: (N, 2) draws in [0, 2^32), for the row and the column of the centre.
        size: side of the square in pixels.
        fill: its colour, (C,).
    """
    _, height, width, _ = images.shape
    rows = _inside(height, _below(random[:, 0:1], height) - size // 2, size)
    cols = _inside(width, _below(random[:, 1:2], width) - size // 2, size)
    blank = rows[:, :, None, None] & cols[:, None, :, None]
    return torch.where(blank, constant(fill, images.device, torch.uint8), images)


def lighting(images: Tensor, random: Tensor, *, strength: float) -> Tensor:
    """Shift each image's colour along the principal components of ImageNet's (Krizhevsky et al., NeurIPS 2012, section 4.1).

    Args:
        images: uint8 (N, H, W, 3).
        random: (N, 6) draws in [0, 2^32).
        strength: standard deviation of the shift, in multiples of the eigenvalues.

    Returns:
        float (N, H, W, 3), values about 0 … 255.
    """
    axes = constant(_EIGENVECTORS, images.device) * constant(_EIGENVALUES, images.device) * 255
    shift = _normal(random) * strength @ axes.T
    return images + shift[:, None, None, :]


def mixup_weight(alpha: float, seed: int, epoch: int, place: int) -> float:
    """The share of each image in its mixture, for batch ``place`` of an epoch: Beta(alpha, alpha) distributed."""
    return float(np.random.default_rng((seed, epoch, place, 2)).beta(alpha, alpha))


def mixup(pixels: Tensor, labels: Tensor, *, weight: float, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mix each image with its mirror in the batch order (Zhang et al., arXiv:1710.09412).

    Args:
        pixels: normalised (N, C, H, W).
        labels: (N,).
        weight: share of the image itself.
        num_classes: C of the probabilities.

    Returns:
        Images (N, C, H, W) and class probabilities (N, classes).
    """
    targets = F.one_hot(labels, num_classes).to(pixels.dtype)
    return torch.lerp(pixels.flip(0), pixels, weight), torch.lerp(targets.flip(0), targets, weight)


def _inside(length: int, first: Tensor, size: int) -> Tensor:
    """Which of 0 … length - 1 lie in [first, first + size), (N, length), for ``first`` (N, 1)."""
    place = torch.arange(length, device=first.device)
    return (place >= first) & (place < first + size)


def _normal(random: Tensor) -> Tensor:
    """Standard normal (N, M) from draws (N, 2 M), by Box and Muller."""
    uniform = (random.double() + 0.5) / 2**32
    radius, angle = uniform.chunk(2, dim=1)
    return (radius.log().mul(-2).sqrt() * (2 * math.pi * angle).cos()).float()


def _below(random: Tensor, bound: int) -> Tensor:
    """Map [0, 2^32) evenly onto [0, bound)."""
    return random * bound >> 32


def _mix(value: Tensor) -> Tensor:
    value = value ^ value >> 16
    value = value * 0x85EBCA6B & _MASK
    value = value ^ value >> 13
    value = value * 0xC2B2AE35 & _MASK
    return value ^ value >> 16
