"""Exit policies: who leaves at an exit."""

from typing import Protocol

from torch import Tensor

from offramp.decide.answers import Answer, Memo


class ExitPolicy(Protocol):
    """Decides who leaves. It is never asked at the last exit, where everybody does."""

    def stop(self, k: int, answer: Answer, memo: Memo) -> Tensor:
        """Mask (N,) of the samples that leave at exit k."""
        ...
