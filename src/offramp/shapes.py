"""The legend of array shapes used in every docstring.

K exits · N samples · C classes (logits) or channels (images) · H, W height and width.

Images enter as uint8 (N, H, W, C); a network sees normalised float (N, C, H, W) and gives logits (K, N, C).
"""

from typing import TypeAlias

import torch

State: TypeAlias = tuple[torch.Tensor | None, ...]
"""What one stage hands to the next in an eager network: batch-first tensors, ``None`` where nothing is needed any more."""
