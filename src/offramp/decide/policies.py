"""Exit policies: who leaves at an exit."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from offramp.decide.answers import Answer, Memo


class ExitPolicy(Protocol):
    """Decides who leaves. It is never asked at the last exit, where everybody does."""

    def stop(self, k: int, answer: Answer, memo: Memo) -> Tensor:
        """Mask (N,) of the samples that leave at exit k."""
        ...


@dataclass(frozen=True)
class Threshold:
    """Stop at the first exit whose confidence reaches its threshold (paper §3, budgeted batch)."""

    thresholds: tuple[float, ...]
    """(K,); the last is never asked."""

    def stop(self, k: int, answer: Answer, memo: Memo) -> Tensor:
        """Mask (N,) of the samples that leave at exit k."""
        del memo
        return answer.confidence >= self.thresholds[k]
