import importlib.util
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

from offramp.data.image_augment import ImageAugment, crop_box, image_rng
from pictures import picture

NOTHING = ImageAugment(size=8, area=(), interpolation="bicubic", color_jitter=0.0, randaugment=(), fill=(1, 2, 3))
VISION = pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")


def augment(**changes: Any) -> ImageAugment:
    return ImageAugment(**{**vars(NOTHING), **changes})


def rng(row: int = 0, epoch: int = 0, seed: int = 0) -> np.random.Generator:
    return image_rng(seed, epoch, row)


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.mode == other.mode and ImageChops.difference(one, other).getbbox() is None


def test_where_nothing_is_asked_for_nothing_is_done() -> None:
    image = picture()
    assert NOTHING(image, rng()) is image


def test_the_draws_of_an_image_depend_on_seed_epoch_and_row_alone() -> None:
    drawn = {key: image_rng(*key).integers(2**63) for key in np.ndindex(3, 3, 3)}
    assert len(set(drawn.values())) == 27
    assert all(image_rng(*key).integers(2**63) == value for key, value in drawn.items())


# ---- the crop


def largest_in_the_centre(width: int, height: int) -> tuple[int, int, int, int]:
    """Written as one would cut it: too wide or too high parts come off, half on each side."""
    w, h = width, height
    if width / height > 4 / 3:
        w = max(1, round(height * 4 / 3))
    elif width / height < 3 / 4:
        h = max(1, round(width / (3 / 4)))
    return (width - w) // 2, (height - h) // 2, (width - w) // 2 + w, (height - h) // 2 + h


@settings(max_examples=300)
@given(
    width=st.integers(1, 600), height=st.integers(1, 600), seed=st.integers(0, 2**32),
    area=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(lambda pair: (min(pair), max(pair))),
)  # fmt: skip
def test_a_crop_lies_in_the_image_with_the_area_and_shape_asked_for_or_is_the_largest_allowed(
    width: int, height: int, seed: int, area: tuple[float, float]
) -> None:
    left, top, right, bottom = box = crop_box((width, height), area, np.random.default_rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    w, h = right - left, bottom - top
    # Sides are rounded to whole pixels, so the exact ones differ by half a pixel at most.
    low, high = (w - 0.5) * (h - 0.5) / (width * height), (w + 0.5) * (h + 0.5) / (width * height)
    fits = low <= area[1] * 1.0001 and high >= area[0] * 0.9999
    shaped = (w - 0.5) / (h + 0.5) <= 4 / 3 * 1.0001 and (w + 0.5) / (h - 0.5) >= 3 / 4 * 0.9999
    assert (fits and shaped) or box == largest_in_the_centre(width, height)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 4), (400, 300), (1000, 10)])
def test_an_image_too_narrow_for_any_crop_gives_its_centre(size: tuple[int, int]) -> None:
    boxes = {crop_box(size, (1.0, 1.0), rng(row)) for row in range(50)}
    assert largest_in_the_centre(*size) in boxes
    assert all(0 <= left < right <= size[0] and 0 <= top < bottom <= size[1] for left, top, right, bottom in boxes)


def test_area_shape_and_place_are_evenly_spread() -> None:
    boxes = np.array([crop_box((400, 400), (0.1, 0.3), rng(row)) for row in range(2000)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    places = np.linspace(0.05, 0.95, 10)
    shares = (widths * heights / 160_000 - 0.1) / 0.2
    shapes = (np.log(widths / heights) + math.log(4 / 3)) / (2 * math.log(4 / 3))
    lefts = boxes[:, 0] / (400 - widths)
    for values in (shares, shapes, lefts, boxes[:, 1] / (400 - heights)):
        assert np.quantile(values, places) == pytest.approx(places, abs=0.05)  # four deviations of a uniform's quantile


def test_the_crop_is_resized_to_the_size_of_the_model() -> None:
    columns, rows = np.meshgrid(np.arange(90), np.arange(60))
    image = Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8))
    for row in range(20):
        left, top, right, bottom = crop_box((90, 60), (0.2, 0.5), rng(row))
        found = np.asarray(augment(area=(0.2, 0.5))(image, rng(row)), float)
        assert found.shape == (8, 8, 3)
        centres = (np.arange(8) + 0.5) / 8
        assert found[..., 0] == pytest.approx(np.tile(left + centres * (right - left) - 0.5, (8, 1)), abs=1.2)
        assert pytest.approx(np.tile(top + centres * (bottom - top) - 0.5, (8, 1)), abs=1.2) == found[..., 1].T


def test_the_crop_is_resized_as_the_model_resizes() -> None:
    image = picture(1, (60, 90))
    bicubic, bilinear = (augment(area=(0.2, 0.5), interpolation=how)(image, rng()) for how in ("bicubic", "bilinear"))
    box = crop_box(image.size, (0.2, 0.5), rng())
    assert same(bicubic, image.resize((8, 8), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0))
    assert same(bilinear, image.resize((8, 8), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0))
    assert not same(bicubic, bilinear)


# ---- colours


@given(st.integers(0, 10_000))
def test_without_strength_colours_stay(row: int) -> None:
    image = picture(row)
    assert augment(color_jitter=0.0)(image, rng(row)) is image


def test_on_plain_grey_only_brightness_shows_and_is_even_in_its_range() -> None:
    grey = Image.new("RGB", (3, 3), (100, 100, 100))
    seen = []
    for row in range(500):
        pixels = np.asarray(augment(color_jitter=0.4)(grey, rng(row)))
        assert (pixels == pixels[0, 0, 0]).all()
        seen.append(int(pixels[0, 0, 0]))
    assert 60 <= min(seen) < 63
    assert 137 < max(seen) <= 140
    assert np.mean(seen) == pytest.approx(100, abs=4)


def test_contrast_and_saturation_change_too_in_random_order() -> None:
    image = picture(3)
    jittered = [np.asarray(augment(color_jitter=0.4)(image, rng(row)), float) for row in range(40)]
    spreads = [pixels.std(axis=(0, 1)).mean() / pixels.mean() for pixels in jittered]
    saturations = [np.ptp(pixels, axis=2).mean() / pixels.mean() for pixels in jittered]
    assert max(spreads) > 1.1 * min(spreads)
    assert max(saturations) > 1.3 * min(saturations)


@pytest.mark.parametrize("changes", [{"color_jitter": 0.4}, {"area": (0.1, 1.0)}], ids=["colours", "crop"])
def test_an_image_is_augmented_by_its_draws_alone(changes: dict[str, Any]) -> None:
    images = [picture(4)] * 3
    first, again, other = (augment(**changes)(image, rng(row)) for image, row in zip(images, (1, 1, 2), strict=True))
    assert same(first, again)
    assert not same(first, other)
    assert same(images[0], picture(4))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_colour_mode_stays(mode: str) -> None:
    image = picture(5, mode=mode)
    assert augment(area=(0.1, 1.0), color_jitter=0.4)(image, rng()).mode == mode


# ---- RandAugment


@VISION
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_randaugment_depends_on_seed_epoch_and_row_alone_and_leaves_the_generator_alone(mode: str) -> None:
    fill = (1, 2, 3)[: len(mode)]
    work, image = augment(randaugment=(2, 9), fill=fill), picture(6, (20, 20), mode)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    found = {key: work(image, image_rng(*key)) for key in np.ndindex(2, 3, 4)}
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert all(same(work(image, image_rng(*key)), one) for key, one in found.items())
    assert len({one.tobytes() for one in found.values()}) > 12
    assert all((one.mode, one.size) == (mode, (20, 20)) for one in found.values())


@VISION
def test_what_rotations_uncover_has_the_colour_of_the_padding() -> None:
    image = Image.new("RGB", (30, 30), (200, 200, 200))
    work = augment(randaugment=(1, 30), fill=(11, 22, 33))
    colours = {colour for row in range(60) for _, colour in work(image, rng(row)).getcolors() or []}
    assert (11, 22, 33) in colours
