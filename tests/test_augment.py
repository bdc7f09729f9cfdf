import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from offramp.data.augment import draws, pad_crop_flip


@given(
    seed=st.integers(0, 2**33),
    epoch=st.integers(0, 10_000),
    indices=st.lists(st.integers(0, 2_000_000), min_size=1, max_size=20),
    count=st.integers(1, 4),
)
def test_a_draw_depends_on_seed_epoch_and_index_alone(seed: int, epoch: int, indices: list[int], count: int) -> None:
    together = draws(seed, epoch, torch.tensor(indices), count)
    assert together.shape == (len(indices), count)
    assert together.min() >= 0
    assert together.max() < 2**32
    for row, index in enumerate(indices):
        assert draws(seed, epoch, torch.tensor([index]), count)[0].tolist() == together[row].tolist()
    assert draws(seed, epoch, torch.tensor(indices[::-1]), count).tolist() == together.tolist()[::-1]
    assert draws(seed, epoch, torch.tensor(indices), count + 1)[:, :count].tolist() == together.tolist()


def test_another_seed_epoch_index_or_place_gives_other_draws() -> None:
    sets = [draws(seed, epoch, torch.arange(50), 3) for seed in range(4) for epoch in range(4)]
    values = torch.stack(sets).flatten()
    # 2,400 values of 2^32: one chance in 1,500 that any two are equal at all.
    assert len(np.unique(values.numpy())) == len(values)


def test_draws_are_even_over_samples_and_over_epochs() -> None:
    over_samples = draws(0, 3, torch.arange(9000), 3)
    over_epochs = torch.cat([draws(0, epoch, torch.tensor([7]), 3) for epoch in range(1500)])
    for values in (*over_samples.T, *over_epochs.T):
        for bound in (2, 5, 9, 16):
            counts = torch.bincount(values * bound >> 32, minlength=bound).double()
            expected = len(values) / bound
            chi_square = ((counts - expected) ** 2 / expected).sum().item()
            assert chi_square < bound - 1 + 5 * (2 * (bound - 1)) ** 0.5  # five standard deviations


def test_draws_of_neighbours_are_unrelated() -> None:
    values = draws(0, 0, torch.arange(5000), 3).double()
    table = torch.cat([values[:-1], values[1:]], dim=1).T
    correlation = torch.corrcoef(table) - torch.eye(6)
    assert correlation.abs().max() < 0.06  # four standard deviations of 1 / sqrt(5000)


def reference(images: Tensor, random: Tensor, pad: int, flip: bool, fill: tuple[int, ...]) -> Tensor:
    """Sample by sample, as one would write it first."""
    out = np.empty_like(images.numpy())
    for n, image in enumerate(images.numpy()):
        height, width, channels = image.shape
        canvas = np.empty((height + 2 * pad, width + 2 * pad, channels), np.uint8)
        canvas[:] = fill
        canvas[pad : pad + height, pad : pad + width] = image
        top, left, turn = (int(value) for value in random[n])
        top, left = top * (2 * pad + 1) // 2**32, left * (2 * pad + 1) // 2**32
        crop = canvas[top : top + height, left : left + width]
        out[n] = crop[:, ::-1] if flip and turn >= 2**31 else crop
    return torch.from_numpy(out)


@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    channels=st.sampled_from([1, 3]),
    pad=st.integers(0, 4),
    flip=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_it_pads_crops_and_flips_like_a_plain_loop(
    height: int, width: int, channels: int, pad: int, flip: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (6, height, width, channels), generator=generator, dtype=torch.uint8)
    random = draws(seed, 0, torch.arange(6), 3)
    fill = (11, 22, 33)[:channels]
    augmented = pad_crop_flip(images, random, pad=pad, flip=flip, fill=fill)
    assert augmented.dtype == torch.uint8
    assert augmented.tolist() == reference(images, random, pad, flip, fill).tolist()


def test_without_padding_and_flip_nothing_changes() -> None:
    images = torch.randint(0, 256, (8, 5, 6, 3), dtype=torch.uint8)
    same = pad_crop_flip(images, draws(0, 0, torch.arange(8), 3), pad=0, flip=False, fill=(0, 0, 0))
    assert torch.equal(same, images)


def test_half_of_the_images_are_flipped() -> None:
    images = torch.arange(2, dtype=torch.uint8)[None, None, :, None].repeat(2000, 1, 1, 1)
    turned = pad_crop_flip(images, draws(0, 0, torch.arange(2000), 3), pad=0, flip=True, fill=(0,))
    assert turned[:, 0, 0, 0].float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_the_padding_has_the_given_colour_and_every_place_occurs() -> None:
    images = torch.full((4000, 1, 1, 3), 200, dtype=torch.uint8)
    moved = pad_crop_flip(images, draws(0, 0, torch.arange(4000), 3), pad=1, flip=False, fill=(1, 2, 3))
    colours, counts = np.unique(moved[:, 0, 0].numpy(), axis=0, return_counts=True)
    assert colours.tolist() == [[1, 2, 3], [200, 200, 200]]
    assert counts[1] / 4000 == pytest.approx(1 / 9, abs=0.02)
