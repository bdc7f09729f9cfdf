"""Images that are resized to more than the network sees, of which the centre or ten crops are cut out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from offramp.classifier.identity import identity_of
from offramp.data.preprocess import Preprocessing
from offramp.errors import ConfigError

RGB = Preprocessing(8, (0.25, 0.5, 0.75), (0.5, 0.25, 0.125))
IMAGENET = Preprocessing(224, (0.5,) * 3, (0.25,) * 3, resize=256)


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("size", "resized", "corner"),
    [
        ((300, 500), (256, 427), (16, 102)),  # enlarging 300 to 256 keeps the ratio; (427 - 224) / 2 is even-rounded
        ((640, 480), (341, 256), (58, 16)),
        ((256, 256), (256, 256), (16, 16)),
        ((100, 50), (512, 256), (144, 16)),
        ((256, 10_000), (256, 10_000), (16, 4888)),
    ],
)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_shorter_side_is_resized_and_the_centre_cut_out(
    size: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int], interpolation: Any
) -> None:
    image, (left, top) = noise(size[1], size[0]), corner
    by_hand = image.resize(resized, Image.Resampling[interpolation.upper()])
    expected = np.asarray(by_hand.crop((left, top, left + 224, top + 224)))
    preprocessing = replace(IMAGENET, interpolation=interpolation)
    assert np.array_equal(preprocessing.decode(image)[0], expected)


def test_photos_are_turned_upright_before_they_are_resized_and_cut(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    noise(300, 500).save(tmp_path / "photo.png", exif=exif)
    upright = noise(300, 500).transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(IMAGENET.decode(tmp_path / "photo.png"), IMAGENET.decode(upright))
    assert not np.array_equal(IMAGENET.decode(upright), IMAGENET.decode(noise(300, 500)))


def test_ten_crops_are_the_corners_and_the_centre_and_their_mirror_images() -> None:
    image = noise(300, 500)
    crops = IMAGENET.ten_crops(image)
    whole = np.asarray(image.resize((427, 256), Image.Resampling.BICUBIC))
    corners = [(0, 0), (0, 203), (32, 0), (32, 203), (16, 102)]
    expected = [whole[top : top + 224, left : left + 224] for top, left in corners]
    assert crops.shape == (10, 224, 224, 3)
    for place, pixels in enumerate(expected):
        assert np.array_equal(crops[place], pixels)
        assert np.array_equal(crops[place + 5], np.fliplr(pixels))
    assert np.array_equal(crops[4], IMAGENET.fit(image))


def test_models_of_before_resizing_existed_keep_their_identity() -> None:
    assert list(RGB.to_json()) == ["image_size", "mean", "std"]
    assert list(IMAGENET.to_json()) == ["image_size", "mean", "std", "resize"]
    known = "0f01068d3ab8036776a56872e965af1409b313cb0147de2a44b42605871ec59c"
    assert identity_of("digest", "fp32", "this-exit", RGB) == known
    assert identity_of("digest", "fp32", "this-exit", replace(RGB, interpolation="bilinear")) != known


@pytest.mark.parametrize("broken", [{"resize": "256"}, {"interpolation": 3}])
def test_plain_values_of_another_resizing_are_refused(broken: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"wants resize \(int\) and interpolation \(text\)"):
        Preprocessing.from_json({"image_size": 8, "mean": [0.5], "std": [0.5], **broken})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resize": 223}, "resize 223: 224 pixels are cut out afterwards; resize to at least as many"),
        ({"interpolation": "nearest"}, "interpolation 'nearest': choose one of bicubic, bilinear"),
    ],
)
def test_resizing_that_breaks_a_rule_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(IMAGENET, **changes)
    assert str(caught.value) == message
