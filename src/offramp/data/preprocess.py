"""From anything a user holds to the uint8 array a data set would give, and from there to what a network sees."""

import dataclasses
import math
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from offramp.errors import ConfigError, DataError
from offramp.shapes import constant

Images: TypeAlias = NDArray[np.uint8] | Sequence[str | Path | Image.Image] | str | Path | Image.Image
"""One or many images: paths, PIL images, or a uint8 array (N, H, W, C)."""


Interpolation = Literal["bicubic", "bilinear"]
RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects of its images; stored with it."""

    image_size: int
    """Side of the square that is cut from the centre and seen by the network, in pixels."""
    mean: tuple[float, ...]
    """Per channel, of values scaled to 0 … 1; one entry means grey images, three mean RGB."""
    std: tuple[float, ...]
    resize: int = 0
    """The shorter side is brought to this many pixels before the cut; 0 means ``image_size``."""
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        if self.resize and self.resize < self.image_size:
            raise ConfigError(
                f"resize {self.resize}: {self.image_size} pixels are cut out afterwards; resize to at least as many"
            )
        if self.interpolation not in get_args(Interpolation):
            raise ConfigError(
                f"interpolation '{self.interpolation}': choose one of {', '.join(get_args(Interpolation))}"
            )
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise ConfigError(
                f"mean {self.mean} and std {self.std}: give one value each for grey images or three each for RGB"
            )
        if self.image_size < 1 or not all(0 < value < math.inf for value in self.std):
            raise ConfigError(f"image size {self.image_size} and std {self.std}: all must be positive numbers")
        if not all(math.isfinite(value) for value in self.mean):
            raise ConfigError(f"mean {self.mean}: all must be numbers")

    @property
    def channels(self) -> int:
        """Image channels: 1 (grey) or 3 (RGB)."""
        return len(self.mean)

    @property
    def mode(self) -> str:
        """Pillow's name of the colour mode."""
        return "L" if self.channels == 1 else "RGB"

    @property
    def fill(self) -> tuple[int, ...]:
        """The mean colour as uint8: what padding is made of, so that it normalises to (almost) zero."""
        return tuple(round(255 * value) for value in self.mean)

    def decode(self, images: Images) -> NDArray[np.uint8]:
        """The images as uint8 (N, H, W, C) of this size and colour mode.

        Paths and PIL images are turned upright (EXIF), put on white where transparent, converted, resized so that the
        shorter side fits and cropped to the centre. An array is taken as decoded: only its type and shape are checked.

        Raises:
            DataError: not an image, truncated, missing, or an array of another type or shape.
        """
        if isinstance(images, np.ndarray):
            return self._checked(images)
        if isinstance(images, str | Path | Image.Image):
            images = [images]
        if len(images) == 0:
            return np.empty((0, self.image_size, self.image_size, self.channels), np.uint8)
        return np.stack([self.fit(image) for image in images])

    def ten_crops(self, image: str | Path | Image.Image) -> NDArray[np.uint8]:
        """The four corners and the centre, each also mirrored, (10, H, W, C), once the shorter side has ``resize`` pixels."""
        whole = self._resized(self.upright(image))
        far_x, far_y, size = whole.width - self.image_size, whole.height - self.image_size, self.image_size
        corners = [(0, 0), (far_x, 0), (0, far_y), (far_x, far_y), (round(far_x / 2), round(far_y / 2))]
        crops = np.stack([self._pixels(whole.crop((x, y, x + size, y + size))) for x, y in corners])
        return np.concatenate([crops, crops[:, :, ::-1]])

    def normalize(self, images: Tensor) -> Tensor:
        """Normalised float (N, C, H, W), channels last in memory, of images (N, H, W, C) with values 0 … 255."""
        mean = constant(self.mean, images.device) * 255
        scale = 1 / (constant(self.std, images.device) * 255)
        return ((images.float() - mean) * scale).permute(0, 3, 1, 2)

    def to_json(self) -> dict[str, object]:
        """Plain values for a model folder."""
        fields = dataclasses.asdict(self)
        # Left out at their defaults, so that models of before they existed keep their identity.
        return {name: value for name, value in fields.items() if name in _ALWAYS or value != getattr(type(self), name)}

    @classmethod
    def from_json(cls, fields: dict[str, object]) -> "Preprocessing":
        """The inverse of :meth:`to_json`."""
        size, mean, std = fields.get("image_size"), fields.get("mean"), fields.get("std")
        resize, interpolation = fields.get("resize", 0), fields.get("interpolation", "bicubic")
        if not isinstance(size, int) or not isinstance(mean, list) or not isinstance(std, list):
            raise ConfigError(f"preprocessing {fields}: wants image_size (int), mean and std (lists)")
        if not isinstance(resize, int) or not isinstance(interpolation, str):
            raise ConfigError(f"preprocessing {fields}: wants resize (int) and interpolation (text)")
        return cls(size, tuple(map(float, mean)), tuple(map(float, std)), resize, interpolation)  # type: ignore[arg-type]

    def _checked(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        wanted = (self.image_size, self.image_size, self.channels)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != wanted:
            raise DataError(
                f"array of {images.dtype} {images.shape}: this model takes uint8 {('N', *wanted)}; "
                "give paths or PIL images to have them resized"
            )
        # PyTorch takes neither negative strides nor memory it may not write to.
        return np.require(images, requirements=["C", "W"])

    def upright(self, image: str | Path | Image.Image) -> Image.Image:
        """The whole image in this colour mode: turned as its EXIF says, on white where transparent.

        Raises:
            DataError: it cannot be read.
        """
        if not isinstance(image, Image.Image):
            if not isinstance(image, str | Path):
                raise DataError(f"{type(image).__name__} among the images: give paths, PIL images or one uint8 array")
            return self.upright(open_image(Path(image)))
        upright = _upright(image)
        if upright.mode.startswith("I;16"):  # Pillow would clip 16 bits, not scale them
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        if upright.has_transparency_data:  # without a ground, pixels nobody sees would come out
            ground = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(ground, upright.convert("RGBA"))
        return upright.convert(self.mode)

    def fit(self, image: str | Path | Image.Image) -> NDArray[np.uint8]:
        """One image as the network sees it, uint8 (H, W, C)."""
        upright = self.upright(image)
        size = (self.image_size, self.image_size)
        if self.resize > self.image_size:
            resized = self._resized(upright)
            left, top = round((resized.width - size[0]) / 2), round((resized.height - size[1]) / 2)
            upright = resized.crop((left, top, left + size[0], top + size[1]))
        elif upright.size != size:
            upright = ImageOps.fit(upright, size, RESAMPLING[self.interpolation])
        return self._pixels(upright)

    def _resized(self, image: Image.Image) -> Image.Image:
        """Its shorter side brought to ``resize`` pixels, the longer in proportion."""
        scale = max(self.resize, self.image_size) / min(image.size)
        size = max(self.image_size, round(image.width * scale)), max(self.image_size, round(image.height * scale))
        return image if size == image.size else image.resize(size, RESAMPLING[self.interpolation])

    def _pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        return np.asarray(image, np.uint8).reshape(self.image_size, self.image_size, self.channels)


_ALWAYS = ("image_size", "mean", "std")


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


def _upright(image: Image.Image) -> Image.Image:
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
