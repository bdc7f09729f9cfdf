"""The exit policy a plan holds."""

from dataclasses import dataclass
from typing import Any, Protocol


class Judged(Protocol):
    """What would be answered for each sample."""

    @property
    def confidence(self) -> Any:
        """(N,), as an array or tensor; larger is surer."""
        ...


@dataclass(frozen=True)
class Threshold:
    """Stop at the first exit whose confidence reaches its threshold (paper §3, budgeted batch)."""

    thresholds: tuple[float, ...]
    """(K,); the last is never asked."""

    def stop(self, k: int, answer: Judged, memo: object) -> Any:
        """Mask (N,) of the samples that leave at exit k, of the kind the confidence is."""
        del memo
        return answer.confidence >= self.thresholds[k]
