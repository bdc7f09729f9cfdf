"""Answer rules: from the logits seen so far to what would be answered now."""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

Memo: TypeAlias = tuple[Tensor, ...]
"""What a rule remembers of earlier exits: batch-first tensors, compacted together with the network's state."""


@dataclass(frozen=True)
class Answer:
    """What would be answered for each sample."""

    probabilities: Tensor
    """(N, C)."""

    @property
    def confidence(self) -> Tensor:
        """The largest probability, (N,)."""
        return self.probabilities.amax(-1)

    @property
    def label(self) -> Tensor:
        """Class of the largest probability, (N,)."""
        return self.probabilities.argmax(-1)


class AnswerRule(Protocol):
    """Turns logits into answers; ``memo`` is empty before exit 0."""

    def answer(self, k: int, logits: Tensor, memo: Memo) -> tuple[Answer, Memo]:
        """The answer at exit k for logits (N, C), and what to remember."""
        ...


@dataclass(frozen=True)
class ThisExit:
    """Answer with the newest exit alone (paper §3, "the most recent classifier")."""

    def answer(self, k: int, logits: Tensor, memo: Memo) -> tuple[Answer, Memo]:
        """Softmax of the exit's logits."""
        del k
        return Answer(logits.float().softmax(-1)), memo


@dataclass(frozen=True)
class RunningEnsemble:
    """Answer with the mean probability of all exits so far, as the authors' Lua code reports beside single exits."""

    def answer(self, k: int, logits: Tensor, memo: Memo) -> tuple[Answer, Memo]:
        """Mean of the softmaxes of exits 0 … k."""
        total = logits.float().softmax(-1) + (memo[0] if memo else 0)
        return Answer(total / (k + 1)), (total,)


def answers(rule: AnswerRule, logits: Tensor) -> list[Answer]:
    """The answer at every exit, (K,), for stored logits (K, N, C)."""
    memo: Memo = ()
    out = []
    for k, one in enumerate(logits):
        answer, memo = rule.answer(k, one, memo)
        out.append(answer)
    return out
