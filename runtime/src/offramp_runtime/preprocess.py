"""What a model expects of its images, and the way there from anything a user holds."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from offramp_runtime.errors import ConfigError, DataError, MissingExtraError

if TYPE_CHECKING:  # arrays need no Pillow
    from PIL import Image

Images: TypeAlias = "NDArray[np.uint8] | Sequence[str | Path | Image.Image] | str | Path | Image.Image"
"""One or many images: paths, PIL images, or a uint8 array (N, H, W, C)."""


Interpolation = Literal["bicubic", "bilinear"]


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

    def noise(self, count: int) -> NDArray[np.uint8]:
        """Decoded images (N, H, W, C) of nothing in particular, the same every time."""
        shape = count, self.image_size, self.image_size, self.channels
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def decode(self, images: Images) -> NDArray[np.uint8]:
        """The images as uint8 (N, H, W, C) of this size and colour mode.

        Paths and PIL images are turned upright (EXIF), put on white where transparent, converted, resized so that the
        shorter side fits and cropped to the centre. An array is taken as decoded: only its type and shape are checked.

        Raises:
            DataError: not an image, truncated, missing, or an array of another type or shape.
        """
        if isinstance(images, np.ndarray):
            return self._checked(images)
        if isinstance(images, str | Path) or not isinstance(images, Sequence):
            images = [images]
        if len(images) == 0:
            return np.empty((0, self.image_size, self.image_size, self.channels), np.uint8)
        return np.stack([self.fit(image) for image in images])

    def fit(self, image: "str | Path | Image.Image") -> NDArray[np.uint8]:
        """One image as the network sees it, uint8 (H, W, C)."""
        pixels: NDArray[np.uint8] = _pictures().fit(self, image)
        return pixels

    def ten_crops(self, image: "str | Path | Image.Image") -> NDArray[np.uint8]:
        """The four corners and the centre, each also mirrored, (10, H, W, C), once the shorter side has ``resize`` pixels."""
        crops: NDArray[np.uint8] = _pictures().ten_crops(self, image)
        return crops

    def upright(self, image: "str | Path | Image.Image") -> "Image.Image":
        """The whole image in this colour mode: turned as its EXIF says, on white where transparent.

        Raises:
            DataError: it cannot be read.
        """
        whole: Image.Image = _pictures().upright(self, image)
        return whole

    def network_input(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalised images (N, C, H, W) of decoded ones (N, H, W, C)."""
        mean = np.asarray(self.mean, np.float32) * np.float32(255)
        scale = 1 / (np.asarray(self.std, np.float32) * np.float32(255))
        return np.ascontiguousarray(((images.astype(np.float32) - mean) * scale).transpose(0, 3, 1, 2))

    def to_json(self) -> dict[str, object]:
        """Plain values for a model folder."""
        fields = dataclasses.asdict(self)
        # Left out at their defaults, so that models of before they existed keep their identity.
        return {name: value for name, value in fields.items() if name in _ALWAYS or value != getattr(type(self), name)}

    @classmethod
    def from_json(cls, fields: dict[str, object]) -> Self:
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


_ALWAYS = ("image_size", "mean", "std")


def _pictures() -> ModuleType:
    """The part that needs Pillow."""
    try:
        from offramp_runtime import pictures
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"image files and PIL images need {error.name}, which is not installed; give a uint8 array (N, H, W, C), "
            "or install it: pip install 'offramp-runtime[images]'"
        ) from None
    return pictures
