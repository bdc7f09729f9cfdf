"""Writing checkpoints that public code reads."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offramp_runtime.files import write_atomic


def write_state_dict(state: Mapping[str, Tensor], path: Path, **beside: Any) -> None:
    """Write a bare state dict, or with ``beside`` a dict that holds it under ``state_dict``."""
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    data = io.BytesIO()
    torch.save({"state_dict": tensors, **beside} if beside else tensors, data)
    write_atomic(path, lambda file: file.write(data.getvalue()))
