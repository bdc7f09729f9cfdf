import json
import math
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image

from offramp.data.preprocess import Preprocessing, image_suffixes, open_image
from offramp.errors import ConfigError, DataError, MissingExtraError

GREY = Preprocessing(8, (0.5,), (0.25,))
RGB = Preprocessing(8, (0.25, 0.5, 0.75), (0.5, 0.25, 0.125))
PER_MILLE = st.integers(1, 2000).map(lambda number: number / 1000)


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def halves(width: int = 8, height: int = 8) -> Image.Image:
    """Black left, white right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = 255
    return Image.fromarray(pixels)


def test_an_image_of_the_right_size_and_colour_is_taken_as_it_is(tmp_path: Path) -> None:
    image = noise(8, 8)
    image.save(tmp_path / "image.png")
    for given in (image, tmp_path / "image.png", str(tmp_path / "image.png"), [image], (tmp_path / "image.png",)):
        decoded = RGB.decode(given)
        assert decoded.dtype == np.uint8
        assert np.array_equal(decoded, np.asarray(image)[None])


def test_grey_models_see_grey_and_colour_models_three_equal_channels() -> None:
    image = noise(8, 8)
    assert np.array_equal(GREY.decode(image)[0, :, :, 0], np.asarray(image.convert("L")))
    grey = image.convert("L")
    assert np.array_equal(RGB.decode(grey)[0], np.repeat(np.asarray(grey)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_images_of_every_colour_mode_are_converted(mode: str) -> None:
    image = halves().convert(mode)
    for preprocessing in (GREY, RGB):
        pixels = preprocessing.decode(image)[0]
        assert pixels.shape == (8, 8, preprocessing.channels)
        assert pixels[0, 0].max() < 10
        assert pixels[0, -1].min() > 245


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    pixels = (np.arange(64, dtype=np.uint16) * 1024).reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    assert np.array_equal(GREY.decode(tmp_path / "deep.png")[0, :, :, 0], (pixels // 256).astype(np.uint8))


@pytest.mark.parametrize("size", [(16, 16), (24, 16), (16, 24), (5, 5), (3, 30)])
def test_images_of_other_sizes_are_resized_and_cropped_to_the_centre(size: tuple[int, int]) -> None:
    pixels = RGB.decode(halves(*size))[0]
    assert pixels.shape == (8, 8, 3)
    assert pixels[:, 0].max() < 128 < pixels[:, -1].min()
    assert np.array_equal(pixels, pixels[:1].repeat(8, axis=0))


def test_what_lies_outside_the_centre_square_is_not_seen() -> None:
    pixels = np.full((8, 24, 3), 255, np.uint8)
    pixels[:, 8:16] = 0
    assert RGB.decode(Image.fromarray(pixels)).max() == 0


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, np.rot90),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff"])
def test_photos_are_turned_upright(tmp_path: Path, orientation: int, turn: Any, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    noise(8, 8).save(path, exif=exif)
    noise(8, 8).save(tmp_path / f"plain.{suffix}")
    assert np.array_equal(RGB.decode(path)[0], turn(RGB.decode(tmp_path / f"plain.{suffix}")[0]))


def test_many_images_keep_their_order_and_none_is_none() -> None:
    images = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (7, 3, 5)]
    assert RGB.decode(images)[:, 0, 0, 0].tolist() == [7, 3, 5]
    assert RGB.decode([]).shape == (0, 8, 8, 3)


def test_an_array_is_taken_as_decoded() -> None:
    array = np.zeros((2, 8, 8, 3), np.uint8)
    assert RGB.decode(array) is array


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 1), np.uint8),
        np.zeros((1, 9, 8, 3), np.uint8),
        np.zeros((1, 3, 8, 8), np.uint8),
        np.zeros((1, 8, 8, 3), np.float32),
    ],
)
def test_an_array_of_another_type_or_shape_is_refused(array: Any) -> None:
    with pytest.raises(DataError) as caught:
        RGB.decode(array)
    assert str(caught.value) == (
        f"array of {array.dtype} {array.shape}: this model takes uint8 ('N', 8, 8, 3); "
        "give paths or PIL images to have them resized"
    )


@pytest.mark.parametrize(("images", "kind"), [([np.zeros((8, 8, 3), np.uint8)], "ndarray"), ([3], "int")])
def test_what_is_no_image_at_all_is_refused_by_its_type(images: Any, kind: str) -> None:
    with pytest.raises(DataError, match=f"^{kind} among the images: give paths, PIL images or one uint8 array$"):
        RGB.decode(images)


def test_files_that_are_no_images_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    noise(64, 64).save(tmp_path / "whole.jpg")
    noise(64, 64).save(tmp_path / "whole.png")
    for whole in ("whole.jpg", "whole.png"):
        data = (tmp_path / whole).read_bytes()
        (tmp_path / f"half-{whole}").write_bytes(data[: len(data) // 2])
    for name, rule in {
        "missing.png": "no such file; check the path",
        ".": "a folder, not an image; name the files in it",
        "text.png": "not an image Pillow can read",
        "empty.png": "not an image Pillow can read",
        "half-whole.jpg": "the file is damaged or truncated, get it anew",
        "half-whole.png": "the file is damaged or truncated, get it anew",
        "\0.png": "cannot be decoded (embedded null byte)",
    }.items():
        path = tmp_path / name
        with pytest.raises(DataError) as caught:
            RGB.decode([path])
        assert str(caught.value).startswith(f"{path}: ")
        assert rule in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_image_large_enough_to_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise(64, 64).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"bomb\.png: .*; scale it down first$"):
        RGB.decode(tmp_path / "bomb.png")


def test_formats_that_start_other_programs_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {trace}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "photo.jpg").write_bytes(drawing)
    with pytest.raises(DataError, match="not an image Pillow can read"):
        open_image(tmp_path / "photo.jpg")
    assert not trace.exists()
    assert {".jpg", ".png", ".webp"} <= image_suffixes()
    assert image_suffixes().isdisjoint({".eps", ".pdf", ".h5"})


def test_whatever_a_decoder_makes_of_damage_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_image: Image.Image) -> None:
        raise RuntimeError("a decoder of its own mind")

    noise(8, 8).save(tmp_path / "image.png")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(DataError, match=r"image.png: cannot be decoded .a decoder of its own mind"):
        open_image(tmp_path / "image.png")


def test_an_opened_image_holds_no_file_open(tmp_path: Path) -> None:
    noise(8, 8).save(tmp_path / "image.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        image = open_image(tmp_path / "image.png")
        (tmp_path / "image.png").unlink()
        assert image.resize((4, 4)).size == (4, 4)


def test_normalised_images_have_the_channels_first_and_the_statistics_taken_off() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    normalised = RGB.normalize(torch.from_numpy(images))
    assert normalised.shape == (2, 3, 8, 8)
    assert normalised.dtype == torch.float32
    expected = (images / 255 - np.array(RGB.mean)) / np.array(RGB.std)
    np.testing.assert_allclose(normalised.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)


def test_the_padding_colour_normalises_to_almost_zero() -> None:
    fill = torch.tensor(RGB.fill, dtype=torch.uint8).reshape(1, 1, 1, 3)
    assert RGB.fill == (64, 128, 191)
    assert RGB.normalize(fill).abs().max() <= 0.5 / 255 / min(RGB.std)


@pytest.mark.parametrize(
    "preprocessing", [RGB, GREY, replace(RGB, resize=10), replace(RGB, interpolation="bilinear")],
    ids=["RGB", "grey", "resized", "bilinear"],
)  # fmt: skip
def test_it_comes_back_from_its_plain_values(preprocessing: Preprocessing) -> None:
    assert Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json()))) == preprocessing


@pytest.mark.parametrize("broken", [{}, {"image_size": "8"}, {"mean": 0.5}, {"std": None}])
def test_plain_values_that_do_not_fit_are_refused(broken: dict[str, object]) -> None:
    fields = {"image_size": 8, "mean": [0.5], "std": [0.5]} | broken if broken else broken
    with pytest.raises(ConfigError, match=r"wants image_size \(int\), mean and std \(lists\)"):
        Preprocessing.from_json(fields)


@pytest.mark.parametrize(
    ("size", "mean", "std", "message"),
    [
        (8, (), (), "give one value each for grey images or three each for RGB"),
        (8, (0.5, 0.5), (0.5, 0.5), "give one value each for grey images or three each for RGB"),
        (8, (0.5,), (0.5, 0.5, 0.5), "give one value each for grey images or three each for RGB"),
        (0, (0.5,), (0.5,), "image size 0 and std (0.5,): all must be positive numbers"),
        (8, (math.nan,), (0.5,), "mean (nan,): all must be numbers"),
        (8, (0.5,), (math.inf,), "std (inf,): all must be positive numbers"),
        (8, (0.5,), (0.0,), "image size 8 and std (0.0,): all must be positive numbers"),
    ],
)
def test_values_that_break_a_rule_are_refused(size: int, mean: Any, std: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Preprocessing(size, mean, std)
    assert message in str(caught.value)


def test_transparent_pixels_become_white_not_the_colour_hidden_under_them() -> None:
    hidden = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (RGB.decode(hidden) == 255).all()


@pytest.mark.filterwarnings("error")
def test_arrays_may_be_views_that_run_backwards_or_memory_that_may_not_be_written() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    frozen = pixels.copy()
    frozen.flags.writeable = False
    for given in (pixels[::-1], pixels[..., ::-1], frozen):
        assert torch.equal(
            RGB.normalize(torch.from_numpy(RGB.decode(given))), RGB.normalize(torch.from_numpy(given.copy()))
        )


def test_exif_that_cannot_be_read_turns_nothing(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    halves().save(path, exif=b"Exif\0\0no TIFF header here")
    assert (GREY.decode(path)[0, :, :, 0] == np.asarray(halves().convert("L"))).all()


@hypothesis.given(
    st.sampled_from([1, 3]).flatmap(lambda channels: st.tuples(*[st.tuples(*[PER_MILLE] * channels)] * 2)),
    st.integers(0, 9),
)
def test_arrays_are_normalised_as_tensors_are(statistics: tuple[Any, Any], seed: int) -> None:
    wanted = Preprocessing(4, *statistics)
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 4, wanted.channels), np.uint8)
    pixels[0].fill(255)
    found = wanted.network_input(pixels)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_max_ulp(found, wanted.normalize(torch.from_numpy(pixels)).numpy(), maxulp=1)


def test_no_images_are_normalised_to_none() -> None:
    assert RGB.network_input(RGB.decode([])).shape == (0, 3, 8, 8)


def test_pictures_without_pillow_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "offramp_runtime.pictures")
    monkeypatch.delattr("offramp_runtime.pictures")
    for ask in (GREY.decode, GREY.fit, GREY.ten_crops):
        with pytest.raises(MissingExtraError, match=r"need PIL, .*a uint8 array .*offramp-runtime\[images\]"):
            ask("image.png")
    assert GREY.decode(np.zeros((1, 8, 8, 1), np.uint8)).shape == (1, 8, 8, 1)
