from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from offramp.data.augment import cutout, draws, lighting, mixup, mixup_weight, pad_crop_flip
from offramp.data.preprocess import Preprocessing
from offramp.train.feed import Batch
from offramp.train.prepare import prepare
from offramp.train.recipe import Recipe
from tiny import RECIPE

COLOUR = Preprocessing(8, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
PLAIN = replace(RECIPE, crop_pad=0, flip=False, seed=3)
PIXELS = torch.randint(0, 256, (40, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
EVERYTHING: dict[str, Any] = {"crop_pad": 2, "flip": True, "cutout": 3, "lighting": 0.2}


def batch_of(rows: list[int], epoch: int = 5, place: int = 2) -> Batch:
    chosen = torch.tensor(rows)
    return Batch(epoch, place, chosen, PIXELS[chosen], chosen % 4)


def prepared(recipe: Recipe, rows: list[int], **where: int) -> tuple[Tensor, Tensor]:
    return prepare(batch_of(rows, **where), recipe, COLOUR, 4)


def test_without_augmentation_images_are_only_normalised() -> None:
    pixels, labels = prepared(PLAIN, [7, 3, 11])
    assert torch.equal(pixels, COLOUR.normalize(PIXELS[[7, 3, 11]]))
    assert labels.tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    "changes",
    [{"crop_pad": 2}, {"flip": True}, {"cutout": 3}, {"lighting": 0.2}, {"crop_pad": 1, "cutout": 4}, EVERYTHING],
    ids=",".join,
)
def test_what_the_recipe_asks_for_is_done_one_after_the_other_with_draws_of_its_own(changes: dict[str, Any]) -> None:
    rows = [7, 3, 11, 30]
    recipe = replace(PLAIN, **changes)
    random = draws(3, 5, torch.tensor(rows), 11)
    images = pad_crop_flip(
        PIXELS[rows], random[:, :3], pad=recipe.crop_pad, flip=recipe.flip, fill=COLOUR.fill
    )  # fmt: skip
    if recipe.cutout:
        images = cutout(images, random[:, 3:5], size=recipe.cutout, fill=COLOUR.fill)
    if recipe.lighting:
        images = lighting(images, random[:, 5:], strength=recipe.lighting)
    pixels, labels = prepared(recipe, rows)
    assert torch.equal(pixels, COLOUR.normalize(images))
    assert labels.tolist() == [3, 3, 3, 2]


def test_what_happens_to_an_image_does_not_depend_on_the_others_of_its_batch() -> None:
    recipe = replace(PLAIN, **EVERYTHING)
    together, _ = prepared(recipe, list(range(40)))
    for row in (0, 17, 39):
        assert torch.equal(prepared(recipe, [row], place=row)[0][0], together[row])
        assert torch.equal(prepared(recipe, [20, row, 1])[0][1], together[row])


def test_another_epoch_or_seed_augments_otherwise() -> None:
    recipe = replace(PLAIN, **EVERYTHING)
    one = prepared(recipe, [1, 2, 3])[0]
    assert not torch.equal(prepared(recipe, [1, 2, 3], epoch=6)[0], one)
    assert not torch.equal(prepared(replace(recipe, seed=4), [1, 2, 3])[0], one)


def test_mixing_comes_last_with_the_share_of_the_batch() -> None:
    rows = [7, 3, 11, 30]
    recipe = replace(PLAIN, **EVERYTHING)
    plain, labels = prepared(recipe, rows)
    mixed, targets = prepared(replace(recipe, mixup=0.4), rows)
    expected = mixup(plain, labels, weight=mixup_weight(0.4, 3, 5, 2), num_classes=4)
    assert torch.equal(mixed, expected[0])
    assert torch.equal(targets, expected[1])
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    assert not torch.equal(prepared(replace(recipe, mixup=0.4), rows, place=3)[0], mixed)


def test_images_are_laid_out_as_convolutions_like_them() -> None:
    for changes in ({}, EVERYTHING):
        pixels, _ = prepared(replace(PLAIN, **changes), [1, 2])
        assert pixels.shape == (2, 3, 8, 8)
        assert pixels.dtype == torch.float32
        assert pixels.is_contiguous(memory_format=torch.channels_last)
