"""Decoding, turning and resizing pictures with Pillow."""

import struct
import warnings
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from offramp_runtime.errors import DataError
from offramp_runtime.preprocess import Interpolation, Preprocessing

RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


def upright(wanted: Preprocessing, image: str | Path | Image.Image) -> Image.Image:
    """The whole image in this colour mode: turned as its EXIF says, on white where transparent.

    Raises:
        DataError: it cannot be read.
    """
    if not isinstance(image, Image.Image):
        if not isinstance(image, str | Path):
            raise DataError(f"{type(image).__name__} among the images: give paths, PIL images or one uint8 array")
        return upright(wanted, open_image(Path(image)))
    turned = _turned(image)
    if turned.mode.startswith("I;16"):  # Pillow would clip 16 bits, not scale them
        turned = Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8))
    if turned.has_transparency_data:  # without a ground, pixels nobody sees would come out
        ground = Image.new("RGBA", turned.size, "white")
        turned = Image.alpha_composite(ground, turned.convert("RGBA"))
    return turned.convert(wanted.mode)


def fit(wanted: Preprocessing, image: str | Path | Image.Image) -> NDArray[np.uint8]:
    """One image as the network sees it, uint8 (H, W, C)."""
    whole = upright(wanted, image)
    size = (wanted.image_size, wanted.image_size)
    if wanted.resize > wanted.image_size:
        resized = _resized(wanted, whole)
        left, top = round((resized.width - size[0]) / 2), round((resized.height - size[1]) / 2)
        whole = resized.crop((left, top, left + size[0], top + size[1]))
    elif whole.size != size:
        whole = ImageOps.fit(whole, size, RESAMPLING[wanted.interpolation])
    return _pixels(wanted, whole)


def _resized(wanted: Preprocessing, image: Image.Image) -> Image.Image:
    """Its shorter side brought to ``resize`` pixels, the longer in proportion."""
    scale = max(wanted.resize, wanted.image_size) / min(image.size)
    size = max(wanted.image_size, round(image.width * scale)), max(wanted.image_size, round(image.height * scale))
    return image if size == image.size else image.resize(size, RESAMPLING[wanted.interpolation])


def _pixels(wanted: Preprocessing, image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image, np.uint8).reshape(wanted.image_size, wanted.image_size, wanted.channels)


def ten_crops(wanted: Preprocessing, image: str | Path | Image.Image) -> NDArray[np.uint8]:
    """The four corners and the centre, each also mirrored, (10, H, W, C), once the shorter side has ``resize`` pixels."""
    whole = _resized(wanted, upright(wanted, image))
    far_x, far_y, size = whole.width - wanted.image_size, whole.height - wanted.image_size, wanted.image_size
    corners = [(0, 0), (far_x, 0), (0, far_y), (far_x, far_y), (round(far_x / 2), round(far_y / 2))]
    crops = np.stack([_pixels(wanted, whole.crop((x, y, x + size, y + size))) for x, y in corners])
    return np.concatenate([crops, crops[:, :, ::-1]])


@cache
def _formats() -> tuple[str, ...]:
    """Those of Pillow's formats that are read here: pictures. It knows others, one of which starts an interpreter (EPS)."""
    wanted = "JPEG MPO PNG WEBP AVIF GIF BMP DIB TIFF PPM TGA JPEG2000 PCX SGI ICO"
    Image.init()
    return tuple(name for name in wanted.split() if name in Image.OPEN)


@cache
def image_suffixes() -> frozenset[str]:
    """Endings of the names of files that are read, in lower case, with their dot."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in _formats())


def _turned(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says; EXIF that cannot be read says nothing."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        return image


def open_image(path: Path, file: IO[bytes] | None = None) -> Image.Image:
    """The decoded image of a file, or of ``file`` that errors shall call ``path``.

    Raises:
        DataError: missing, not an image, truncated, or so large that decoding it is refused.
    """
    try:
        with Image.open(path if file is None else file, formats=_formats()) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path}: a folder, not an image; name the files in it") from None
    except PermissionError:
        raise DataError(f"{path}: may not be read; check its permissions") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: not an image Pillow can read; give JPEG, PNG, WebP or the like") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {error}; scale it down first") from None
    except Exception as error:  # decoders raise what they like over damaged bytes
        raise DataError(f"{path}: cannot be decoded ({error}); the file is damaged or truncated, get it anew") from None
