"""Which weights, precision, answer rule and preprocessing a calibration or plan belongs to."""

import hashlib
import json
from collections.abc import Mapping
from operator import attrgetter
from typing import Literal

import torch
from torch import Tensor, nn

from offramp.data.preprocess import Preprocessing

_VERSION = attrgetter("_version")
Storage = Literal["fp32", "fp16"]
"""How a model folder keeps weights."""


def stored_form(state: Mapping[str, Tensor], storage: Storage) -> dict[str, Tensor]:
    """The tensors as a model folder keeps them.

    With ``fp16`` weights of two and more axes are halved; all others (norms, biases) stay in float32, since small
    variances would underflow.
    """

    def keep(tensor: Tensor) -> Tensor:
        return tensor.half() if storage == "fp16" and tensor.ndim > 1 and tensor.is_floating_point() else tensor

    return {name: keep(tensor.detach()).cpu().contiguous() for name, tensor in state.items()}


def weights_digest(stored: Mapping[str, Tensor]) -> str:
    """SHA-256 over the sorted (name, dtype, shape, bytes) of stored tensors."""
    digest = hashlib.sha256()
    for name in sorted(stored):
        tensor = stored[name].contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class DigestCache:
    """The digest of a network's stored form, computed anew only when a weight has changed.

    Args:
        net: whose parameters and buffers are looked at. They are listed when a digest is computed: walking through the
            modules would take longer than a small network's first exit.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        self._tensors: list[Tensor] = []
        self._known: tuple[object, str] = (None, "")

    def of(self, storage: Storage) -> str:
        """:func:`weights_digest` in this stored form."""
        if not self._tensors or self._known[0] != self._version(storage):
            self._tensors = [*self._net.parameters(), *self._net.buffers()]
            self._known = self._version(storage), weights_digest(stored_form(self._net.state_dict(), storage))
        return self._known[1]

    def _version(self, storage: Storage) -> object:
        # Mapped, since this is asked for at every answer.
        return storage, list(map(Tensor.data_ptr, self._tensors)), list(map(_VERSION, self._tensors))


def identity_of(digest: str, precision: str, rule: str, preprocessing: Preprocessing | None) -> str:
    """SHA-256 of all that scores depend on."""
    parts = [digest, precision, rule, preprocessing.to_json() if preprocessing else None]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
