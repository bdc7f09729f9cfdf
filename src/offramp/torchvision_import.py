"""torchvision, also beside a PyTorch it was not built for."""

import importlib
import sys
from functools import cache
from types import ModuleType

import torch

from offramp.errors import MissingExtraError

_SCHEMAS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))
"""Operators torchvision registers Python code for while it is imported; neither transforms nor classifiers need them."""


@cache
def import_torchvision(name: str, user: str) -> ModuleType:
    """A module of torchvision.

    The registry's torchvision is built for CUDA. Beside a PyTorch for the CPU its compiled operators do not load, and its
    import fails for want of them. Declaring them is enough for what is Python in it: transforms and networks.

    Args:
        name: of the module, with ``torchvision`` in front.
        user: what needs it, for the message.

    Raises:
        MissingExtraError: torchvision is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise MissingExtraError(
            f"{user} needs torchvision, which is not installed: pip install 'offramp[vision]'"
        ) from None
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    _KEPT.append(library := torch.library.Library("torchvision", "DEF"))  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "torchvision"]:
        del sys.modules[loaded]
    return importlib.import_module(name)


_KEPT: list[torch.library.Library] = []
"""Declarations last as long as the library object."""
