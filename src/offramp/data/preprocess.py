"""From anything a user holds to the uint8 array a data set would give, and from there to what a network sees."""

import dataclasses
import math
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from offramp.errors import ConfigError, DataError

Images: TypeAlias = NDArray[np.uint8] | Sequence[str | Path | Image.Image] | str | Path | Image.Image
"""One or many images: paths, PIL images, or a uint8 array (N, H, W, C)."""


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects of its images; stored with it."""

    image_size: int
    mean: tuple[float, ...]
    """Per channel, of values scaled to 0 … 1; one entry means grey images, three mean RGB."""
    std: tuple[float, ...]

    def __post_init__(self) -> None:
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
        return np.stack([self._fit(image) for image in images])

    def normalize(self, images: Tensor) -> Tensor:
        """Normalised float (N, C, H, W), channels last in memory, of uint8 images (N, H, W, C) on any device."""
        mean = torch.tensor(self.mean, device=images.device) * 255
        scale = 1 / (torch.tensor(self.std, device=images.device) * 255)
        return ((images.float() - mean) * scale).permute(0, 3, 1, 2)

    def to_json(self) -> dict[str, object]:
        """Plain values for a model folder."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, object]) -> "Preprocessing":
        """The inverse of :meth:`to_json`."""
        size, mean, std = fields.get("image_size"), fields.get("mean"), fields.get("std")
        if not isinstance(size, int) or not isinstance(mean, list) or not isinstance(std, list):
            raise ConfigError(f"preprocessing {fields}: wants image_size (int), mean and std (lists)")
        return cls(size, tuple(map(float, mean)), tuple(map(float, std)))

    def _checked(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        wanted = (self.image_size, self.image_size, self.channels)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != wanted:
            raise DataError(
                f"array of {images.dtype} {images.shape}: this model takes uint8 {('N', *wanted)}; "
                "give paths or PIL images to have them resized"
            )
        # PyTorch takes neither negative strides nor memory it may not write to.
        return np.require(images, requirements=["C", "W"])

    def _fit(self, image: str | Path | Image.Image) -> NDArray[np.uint8]:
        if not isinstance(image, Image.Image):
            if not isinstance(image, str | Path):
                raise DataError(f"{type(image).__name__} among the images: give paths, PIL images or one uint8 array")
            return self._fit(open_image(Path(image)))
        upright = _upright(image)
        if upright.mode.startswith("I;16"):  # Pillow would clip 16 bits, not scale them
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        if upright.has_transparency_data:  # without a ground, pixels nobody sees would come out
            ground = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(ground, upright.convert("RGBA"))
        upright = upright.convert("L" if self.channels == 1 else "RGB")
        if upright.size != (self.image_size, self.image_size):
            upright = ImageOps.fit(upright, (self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return np.asarray(upright, np.uint8).reshape(self.image_size, self.image_size, self.channels)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says; EXIF that cannot be read says nothing."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        return image


def open_image(path: Path) -> Image.Image:
    """The decoded image of a file.

    Raises:
        DataError: missing, not an image, truncated, or so large that decoding it is refused.
    """
    try:
        with Image.open(path) as image:
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
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: cannot be decoded ({error}); the file is damaged or truncated, get it anew") from None
