"""Answer rules: from the logits seen so far to what would be answered now."""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

Memo: TypeAlias = tuple[Tensor, ...]
"""What a rule remembers of earlier exits: batch-first tensors, compacted together with the network's state."""


@dataclass(frozen=True)
class Answer:
    """What would be answered for each sample."""

    probabilities: Tensor
    """(N, C)."""
    scores: Tensor | None = None
    """(N, C), what the probabilities are the softmax of, where the rule has it at hand."""

    @property
    def logits(self) -> Tensor:
        """Values whose softmax the probabilities are, (N, C)."""
        return self.probabilities.log() if self.scores is None else self.scores

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
        scores = logits.float()
        return Answer(scores.softmax(-1), scores), memo


@dataclass(frozen=True)
class RunningEnsemble:
    """Answer with the mean probability of all exits so far, as the authors' Lua code reports beside single exits."""

    def answer(self, k: int, logits: Tensor, memo: Memo) -> tuple[Answer, Memo]:
        """Mean of the softmaxes of exits 0 … k."""
        total = logits.float().softmax(-1) + (memo[0] if memo else 0)
        return Answer(total / (k + 1)), (total,)


@dataclass(frozen=True)
class ProductOfExperts:
    """Answer with the product of all exits so far; an image's confidence never falls from one exit to the next.

    The product is that of p_i^w_i over the exits i <= k, normalised. Deeper exits weigh more, w_i being proportional to
    i + 1 as in Jazbec et al., arXiv:2306.02652; the weights sum to sqrt(k + 1), between one expert (exits that say
    the same) and k + 1 experts (exits that know nothing of each other). Theirs falls where exits disagree. Here the
    class in front then keeps the confidence that had been reached, and the others share the rest in proportion.
    """

    def answer(self, k: int, logits: Tensor, memo: Memo) -> tuple[Answer, Memo]:
        """The product of exits 0 … k; its confidence is at least that at exit k - 1, to the last bit."""
        total = (k + 1) * logits.float().log_softmax(-1) + (memo[0] if memo else 0)
        # sqrt(k + 1) over the sum of 1 … k + 1.
        product = (total * (2 / ((k + 1) ** 0.5 * (k + 2)))).softmax(-1)
        if not memo:
            return Answer(product), (total, product.amax(-1, keepdim=True))
        front, label = product.max(-1, keepdim=True)
        held = front.maximum(memo[1])
        others = torch.where(front < held, product * ((1 - held) / (1 - front)), product)
        return Answer(others.scatter(-1, label, held)), (total, held)


RULES: dict[str, AnswerRule] = {
    "this-exit": ThisExit(),
    "running-ensemble": RunningEnsemble(),
    "product-of-experts": ProductOfExperts(),
}


def answers(rule: AnswerRule, logits: Tensor) -> list[Answer]:
    """The answer at every exit, (K,), for stored logits (K, N, C)."""
    memo: Memo = ()
    out = []
    for k, one in enumerate(logits):
        answer, memo = rule.answer(k, one, memo)
        out.append(answer)
    return out
