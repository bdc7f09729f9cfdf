"""The built-in data set: handwritten digits, shipped with scikit-learn, enlarged to 32x32.

1,797 real 8x8 scans (E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998).
"""

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from offramp.data.preprocess import Preprocessing
from offramp.data.source import SourceSpec, Split

TEST_IMAGES = 360


def _read(_root: Path | None, part: Literal["train", "test"]) -> Split:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    rows = order[:TEST_IMAGES] if part == "test" else order[TEST_IMAGES:]
    scans = (digits.images[rows] * (255 / 16)).round().astype(np.uint8)
    images = np.stack([np.asarray(Image.fromarray(scan).resize((32, 32), Image.Resampling.BICUBIC)) for scan in scans])
    return Split(images[..., None], digits.target[rows].astype(np.int64))


SOURCES = {
    "digits": SourceSpec(
        "digits", tuple("0123456789"), Preprocessing(32, (0.309,), (0.348,)), holdout=237, needs_root=False, read=_read
    )
}
