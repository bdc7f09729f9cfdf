"""Augmentation of whole batches on the device; every draw is a function of (seed, epoch, index)."""

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


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
    canvas = torch.tensor(fill, dtype=torch.uint8, device=images.device).repeat(
        count, height + 2 * pad, width + 2 * pad, 1
    )
    canvas[:, pad : pad + height, pad : pad + width] = images
    rows = torch.arange(height, device=images.device) + _below(random[:, 0:1], 2 * pad + 1)
    cols = torch.arange(width, device=images.device) + _below(random[:, 1:2], 2 * pad + 1)
    if flip:
        cols = torch.where(_below(random[:, 2:3], 2).bool(), cols.flip(1), cols)
    sample = torch.arange(count, device=images.device)[:, None, None]
    return canvas[sample, rows[:, :, None], cols[:, None, :]]


def _below(random: Tensor, bound: int) -> Tensor:
    """Map [0, 2^32) evenly onto [0, bound)."""
    return random * bound >> 32


def _mix(value: Tensor) -> Tensor:
    value = value ^ value >> 16
    value = value * 0x85EBCA6B & _MASK
    value = value ^ value >> 13
    value = value * 0xC2B2AE35 & _MASK
    return value ^ value >> 16
