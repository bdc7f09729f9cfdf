"""SVHN, cropped digits of house numbers (Y. Netzer et al., "Reading Digits in Natural Images", 2011).

Read from ``train_32x32.mat`` and ``test_32x32.mat`` in ``data_root/svhn``, or else in ``data_root`` itself; the extra images
are not used. Mean and standard deviation are the values in common use.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.preprocess import Preprocessing
from offramp.data.source import Part, SourceSpec, Split
from offramp.errors import DataError

_REMEDY = "get the file anew"


def has_svhn(folder: Path) -> bool:
    """Whether either part is there."""
    return any((folder / f"{part}_32x32.mat").is_file() for part in ("train", "test"))


def _read(root: Path | None, part: Part) -> Split:
    root = root or Path()
    name = f"{part}_32x32.mat"
    path = next((folder / name for folder in (root / "svhn", root) if (folder / name).is_file()), None)
    if path is None:
        raise DataError(
            f"{root / 'svhn'}: no {name} there; put the file of SVHN (format 2, cropped digits) there, "
            "or check --data-root (it is the folder above svhn)"
        )
    images, labels = _arrays(path)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3) or images.shape[3] == 0:
        raise DataError(f"{path}: X is {images.dtype} {images.shape}, wanted uint8 (32, 32, 3, N); {_REMEDY}")
    count = images.shape[3]
    if labels.dtype.kind not in "iuf" or labels.size != count:
        raise DataError(f"{path}: y is {labels.dtype} {labels.shape}, wanted ({count}, 1), one per image; {_REMEDY}")
    labels = labels.reshape(-1)
    wrong = labels[~np.isin(labels, range(1, 11))]
    if len(wrong):
        raise DataError(f"{path}: label {wrong[0]}: must lie in 1 … 10, 10 being the digit 0; {_REMEDY}")
    return Split(np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels.astype(np.int64) % 10)


def _arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    from scipy.io import loadmat

    try:
        found = loadmat(path, variable_names=["X", "y"])
    except Exception as error:  # a damaged file may raise anything
        raise DataError(f"{path}: cannot be read as a MATLAB file ({type(error).__name__}); {_REMEDY}") from None
    missing = [name for name in ("X", "y") if name not in found]
    if missing:
        raise DataError(f"{path}: holds no variable '{missing[0]}'; {_REMEDY}")
    return np.asarray(found["X"]), np.asarray(found["y"])


SOURCES = {
    "svhn": SourceSpec(
        "svhn",
        tuple("0123456789"),
        Preprocessing(32, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
        holdout=5000,
        needs_root=True,
        read=_read,
    )
}
