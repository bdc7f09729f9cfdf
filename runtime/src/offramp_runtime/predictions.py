"""What a call answers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
        return softmax(self.logits)

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def at(cls, logits: NDArray[np.float32], exit_index: NDArray[np.int64]) -> "Predictions":
        """From the logits (N, C) of the exits ``exit_index`` (N,)."""
        label = logits.argmax(axis=1)
        probability = softmax(logits)[np.arange(len(label)), label]
        return cls(label, probability, exit_index, logits)

    @classmethod
    def none(cls, num_classes: int) -> "Predictions":
        """Of no images."""
        return cls.at(np.empty((0, num_classes), np.float32), np.empty(0, np.int64))

    @classmethod
    def join(cls, parts: "list[Predictions]") -> "Predictions":
        """Several batches, one after the other."""
        fields = ("label", "probability", "exit_index", "logits")
        return cls(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float32)
