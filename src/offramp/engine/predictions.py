"""What a call answers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Predictions:
    """Answers in the order of the images."""

    label: NDArray[np.int64]
    """(N,), index into the class names."""
    probability: NDArray[np.float32]
    """(N,), of that label."""
    exit_index: NDArray[np.int64]
    """(N,), the exit each answer was taken at."""
    logits: NDArray[np.float32]
    """(N, C), of that exit."""

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(N, C), softmax of the logits."""
        shifted = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float32)

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def at(cls, logits: Tensor, exit_index: Tensor) -> "Predictions":
        """From the logits (N, C) of the exits ``exit_index`` (N,)."""
        probability, label = logits.float().softmax(-1).max(-1)
        return cls(
            label.cpu().numpy(), probability.cpu().numpy(), exit_index.cpu().numpy(), logits.float().cpu().numpy()
        )

    @classmethod
    def join(cls, parts: "list[Predictions]") -> "Predictions":
        """Several batches, one after the other."""
        fields = ("label", "probability", "exit_index", "logits")
        return cls(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))
