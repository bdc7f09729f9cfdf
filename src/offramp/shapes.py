"""The legend of array shapes used in every docstring.

K exits · N samples · C classes (logits) or channels (images) · H, W height and width.

Images enter as uint8 (N, H, W, C); a network sees normalised float (N, C, H, W) and gives logits (K, N, C).
"""

from functools import lru_cache
from typing import TypeAlias

import torch

State: TypeAlias = tuple[torch.Tensor | None, ...]
"""What one stage hands to the next in an eager network: batch-first tensors, ``None`` where nothing is needed any more."""


@lru_cache(maxsize=64)
def constant(
    values: tuple[float, ...] | tuple[tuple[float, ...], ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """A small tensor that is sent to the device once; sending it in every step would make the host wait. Not to be changed."""
    with torch.inference_mode(False):  # or those first made while predicting could not be trained with
        return torch.tensor(values, dtype=dtype, device=device)
