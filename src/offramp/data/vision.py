"""torchvision's transforms, also beside a PyTorch they were not built for."""

import importlib
import sys
from functools import cache
from types import ModuleType

import torch

from offramp.errors import MissingExtraError

_SCHEMAS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))
"""Operators torchvision registers Python code for while it is imported; none of the transforms needs them."""


@cache
def load_transforms() -> ModuleType:
    """``torchvision.transforms.v2``.

    The registry's torchvision is built for CUDA. Beside a PyTorch for the CPU its compiled operators do not load, and its
    import fails for want of them. Declaring them is enough for the transforms, which are Python.

    Raises:
        MissingExtraError: torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision.transforms.v2")
    except ModuleNotFoundError:
        raise MissingExtraError(
            "RandAugment needs torchvision, which is not installed: pip install 'offramp[vision]'"
        ) from None
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    _KEPT.append(library := torch.library.Library("torchvision", "DEF"))  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    return importlib.import_module("torchvision.transforms.v2")


_KEPT: list[torch.library.Library] = []
"""Declarations last as long as the library object."""
