import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from offramp.data.augment import cutout, draws, lighting, mixup, mixup_weight, pad_crop_flip


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


# ---- cutout


@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    channels=st.sampled_from([1, 3]),
    size=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_it_blanks_a_square_around_the_drawn_centre_like_a_plain_loop(
    height: int, width: int, channels: int, size: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (6, height, width, channels), generator=generator, dtype=torch.uint8)
    random = draws(seed, 0, torch.arange(6), 2)
    fill = (11, 22, 33)[:channels]
    expected = images.clone()
    for n in range(6):
        top = int(random[n, 0]) * height // 2**32 - size // 2
        left = int(random[n, 1]) * width // 2**32 - size // 2
        for row in range(max(0, top), min(height, top + size)):
            for col in range(max(0, left), min(width, left + size)):
                expected[n, row, col] = torch.tensor(fill, dtype=torch.uint8)
    blanked = cutout(images, random, size=size, fill=fill)
    assert blanked.dtype == torch.uint8
    assert torch.equal(blanked, expected)


def test_a_square_inside_has_its_whole_area_and_every_centre_occurs() -> None:
    images = torch.zeros(4000, 9, 9, 1, dtype=torch.uint8)
    blank = cutout(images, draws(0, 0, torch.arange(4000), 2), size=3, fill=(1,))[..., 0]
    areas = blank.sum((1, 2)).tolist()
    assert set(areas) == {4, 6, 9}  # corners, edges, inside
    assert areas.count(9) / 4000 == pytest.approx(49 / 81, abs=0.03)
    share = blank.float().mean(0)
    assert share[4, 4].item() == pytest.approx(9 / 81, abs=0.02)
    assert share[0, 0].item() == pytest.approx(4 / 81, abs=0.02)


# ---- lighting

AXES = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
VALUES = torch.tensor([0.2175, 0.0188, 0.0045])


def test_a_draw_shifts_all_pixels_by_what_the_formula_gives_by_hand() -> None:
    # exp(-1/2) of the range makes a radius of 1, and an angle of 0 has cosine 1: three times exactly one deviation.
    random = torch.tensor([[round(math.exp(-0.5) * 2**32)] * 3 + [0] * 3])
    images = torch.randint(0, 256, (1, 4, 5, 3), dtype=torch.uint8)
    shift = (lighting(images, random, strength=0.1) - images)[0].reshape(-1, 3)
    # -0.5675 * 0.2175 + 0.7192 * 0.0188 + 0.4009 * 0.0045 = -0.108106, times 255 * 0.1, and so on.
    torch.testing.assert_close(shift, torch.tensor([[-2.75671, -3.31683, -3.52165]]).expand(20, 3), rtol=0, atol=1e-3)


def test_an_opposite_angle_shifts_the_other_way_and_a_right_one_not_at_all() -> None:
    radius = round(math.exp(-0.5) * 2**32)
    grey = torch.full((3, 1, 1, 3), 100, dtype=torch.uint8)
    random = torch.tensor([[radius] * 3 + [angle] * 3 for angle in (0, 2**31, 2**30)])
    there, back, nowhere = (lighting(grey, random, strength=0.5) - 100)[:, 0, 0]
    torch.testing.assert_close(there, -back, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(nowhere, torch.zeros(3), rtol=0, atol=1e-3)


def test_along_the_principal_components_the_noise_is_standard_normal_and_independent() -> None:
    count = 20_000
    black = torch.zeros(count, 1, 1, 3, dtype=torch.uint8)
    shifts = lighting(black, draws(0, 0, torch.arange(count), 6), strength=0.2)[:, 0, 0]
    scores = torch.linalg.solve(AXES * VALUES * 255 * 0.2, shifts.T).T.double()
    deviation = count**-0.5
    assert scores.mean(0).abs().max() < 4 * deviation
    assert (scores.var(0) - 1).abs().max() < 4 * math.sqrt(2) * deviation
    assert ((scores**4).mean(0) - 3).abs().max() < 4 * math.sqrt(96) * deviation
    assert (torch.corrcoef(scores.T) - torch.eye(3)).abs().max() < 4 * deviation
    for bound in (-1.0, 0.0, 0.5, 2.0):
        below = (scores < bound).double().mean(0)
        assert (below - 0.5 * (1 + math.erf(bound / math.sqrt(2)))).abs().max() < 4 * 0.5 * deviation


def test_the_most_extreme_draws_are_still_numbers() -> None:
    black = torch.zeros(2, 1, 1, 3, dtype=torch.uint8)
    ends = torch.tensor([[0] * 6, [2**32 - 1] * 6])
    assert lighting(black, ends, strength=1).isfinite().all()


def test_without_strength_colours_stay() -> None:
    images = torch.randint(0, 256, (4, 3, 3, 3), dtype=torch.uint8)
    assert torch.equal(lighting(images, draws(0, 0, torch.arange(4), 6), strength=0), images.float())


# ---- mix-up


def test_each_image_is_mixed_with_its_mirror_in_the_batch_and_so_are_the_labels() -> None:
    pixels, labels = torch.randn(5, 3, 2, 2), torch.tensor([0, 2, 1, 1, 3])
    mixed, targets = mixup(pixels, labels, weight=0.3, num_classes=4)
    for n in range(5):
        torch.testing.assert_close(mixed[n], 0.3 * pixels[n] + 0.7 * pixels[4 - n])
        expected = [0.0] * 4
        expected[int(labels[n])] += 0.3
        expected[int(labels[4 - n])] += 0.7
        assert targets[n].tolist() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(targets.sum(1), torch.ones(5))


def test_a_whole_share_leaves_images_and_labels_as_they_are() -> None:
    pixels, labels = torch.randn(4, 1, 2, 2), torch.tensor([0, 2, 1, 1])
    mixed, targets = mixup(pixels, labels, weight=1.0, num_classes=3)
    assert torch.equal(mixed, pixels)
    assert torch.equal(targets, torch.eye(3)[labels])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_share_is_beta_distributed_over_the_batches(alpha: float) -> None:
    shares = np.array([mixup_weight(alpha, 0, epoch, place) for epoch in range(20) for place in range(100)])
    assert 0 <= shares.min() <= shares.max() <= 1
    deviation = math.sqrt(1 / (4 * (2 * alpha + 1)))
    assert shares.mean() == pytest.approx(0.5, abs=4 * deviation / math.sqrt(2000))
    assert shares.std() == pytest.approx(deviation, rel=0.1)


def test_the_share_depends_on_seed_epoch_and_batch_alone() -> None:
    shares = {key: mixup_weight(0.4, *key) for key in np.ndindex(3, 3, 3)}
    assert len(set(shares.values())) == 27
    assert all(mixup_weight(0.4, *key) == share for key, share in shares.items())
