"""Small image files, whole and damaged."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int = 0, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Image.Image:
    """Noise; no two seeds give the same."""
    draw = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(draw.integers(0, 1 << 16, size[::-1], np.uint16))
    return Image.fromarray(draw.integers(0, 256, (*size[::-1], 3), np.uint8)).convert(mode)


def write_picture(path: Path, seed: int = 0, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Path:
    """In the format of the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, size, mode).save(path)
    return path


def write_turned(path: Path, seed: int = 0, size: tuple[int, int] = (12, 10)) -> Path:
    """Stored on its side, with EXIF that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, size).save(path, exif=exif)
    return path


def write_truncated(path: Path) -> Path:
    """A JPEG of which the second half is missing."""
    buffer = io.BytesIO()
    picture(7, (64, 64)).save(buffer, "jpeg")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    return path


def write_classes(root: Path, **counts: int) -> Path:
    """``root/CLASS/N.png``, so many of each class and all different."""
    seed = 1000 * sum(map(ord, root.name))
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed += 1
            write_picture(root / name / f"{number}.png", seed)
    return root
