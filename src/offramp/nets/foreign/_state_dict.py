"""Opens a published PyTorch checkpoint as nothing but named tensors; whatever asks for more is refused."""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offramp.errors import ArtifactError

COUNTER = "num_batches_tracked"
"""The integer a batch norm keeps beside its weights; files older than PyTorch 0.4.1 have none."""

_INTEGERS = (COUNTER, ".index", "._count", "._stage")

_LUA = tuple(bytes((kind, 0, 0, 0, 1, 0, 0, 0)) for kind in (3, 4))  # a table or an object, the first of the file
_LUA_TEXT = (b"3\n1\n", b"4\n1\n")
_PREFIX = "module."  # what DataParallel puts before every key


def open_state_dict(path: Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, without the prefix ``module.``, on the CPU.

    Takes a bare state dict or a dict with one under ``state_dict``. Floating-point tensors come as contiguous float32
    copies of their own, whatever they were stored as. Nothing but tensors and plain containers is ever unpickled.

    Raises:
        ArtifactError: missing, damaged, a Lua Torch file, one that wants to run code, no state dict, or a tensor that
            is empty or not finite; the message names the file and the key.
    """
    _refuse_lua(path)
    tensors = _tensors(path, _load(path))
    return {key: _weight(path, key, value) for key, value in tensors.items()}


def _refuse_lua(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror or error}); give a checkpoint file") from None
    if path.suffix.lower() == ".t7" or head.startswith((*_LUA, *_LUA_TEXT)):
        raise ArtifactError(f"{path}: Lua Torch files (.t7) cannot be read; convert it to a PyTorch state dict first")


def _load(path: Path) -> Any:
    """What the file holds, of the types PyTorch considers safe."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        wanted = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if wanted:
            raise ArtifactError(
                f"{path}: wants to load {wanted[1]!r}, and only tensors are read from a checkpoint; "
                "where you trust its origin, load it there and save its state_dict alone"
            ) from None
        raise ArtifactError(
            f"{path}: cannot be read as a PyTorch checkpoint; it is damaged, cut short or of another kind, get it anew"
        ) from None


def _tensors(path: Path, found: object) -> dict[str, object]:
    if isinstance(found, dict) and "state_dict" in found:
        found = found["state_dict"]
    if not isinstance(found, dict) or not found:
        raise ArtifactError(f"{path}: holds no state dict but {type(found).__name__}; give a checkpoint of weights")
    if strange := [key for key in found if not isinstance(key, str) or not key.isprintable()]:
        raise ArtifactError(f"{path}: {strange[0]!r} is no name of a weight; give a checkpoint of weights")
    prefix = _PREFIX if all(key.startswith(_PREFIX) for key in found) else ""
    return {key.removeprefix(prefix): value for key, value in found.items()}


def _weight(path: Path, key: str, value: object) -> Tensor:
    if not isinstance(value, Tensor) or not _holds_its_values(value):
        raise ArtifactError(f"{path}: '{key}' holds no weights; give a checkpoint whose state dict has nothing else")
    if key.endswith(_INTEGERS):
        return value.to(torch.int64, copy=True)
    if not value.is_floating_point():
        raise ArtifactError(f"{path}: '{key}' is {value.dtype}, weights are floating-point; give an unquantised one")
    weight = value.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not weight.isfinite().all():
        raise ArtifactError(f"{path}: '{key}' has values that are not finite; its training diverged, give another")
    return weight


def _holds_its_values(tensor: Tensor) -> bool:
    """Whether every element is stored: an expanded one could ask for any amount of memory."""
    if tensor.layout != torch.strided or tensor.is_meta:
        return False
    return 0 < tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
