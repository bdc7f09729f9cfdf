"""Where a command computes."""

import torch

from offramp.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` takes CUDA where there is one.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda") and not name.startswith("cuda:"):
        raise ConfigError(f"device '{name}': give cpu, cuda or auto")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device '{name}': this machine has no CUDA device torch can use; take --device cpu")
    try:
        place = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device '{name}': give cpu, cuda, cuda:N or auto") from None
    if place.index is not None and place.index >= torch.cuda.device_count():
        raise ConfigError(f"device '{name}': this machine has {torch.cuda.device_count()} CUDA devices, counted from 0")
    if place.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # fp32 shall mean fp32, as on the CPU that solved the thresholds
    return place
