"""Who leaves where, written down before: a rule and a policy for runtimes whose samples are numbers."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.decide.answers import Answer, Memo


@dataclass(frozen=True)
class Numbered:
    """Remembers which samples it was asked about and how often, and notices when memo and batch have come apart."""

    def answer(self, k: int, logits: Tensor, memo: Memo) -> tuple[Answer, Memo]:
        numbers = logits[:, 0]
        times = torch.zeros_like(numbers)
        if memo:
            assert torch.equal(memo[0], numbers)
            times = memo[1] + 1
        assert (times == k).all()
        return Answer(logits), (numbers, times)


@dataclass(frozen=True)
class Script:
    """Sample n leaves at exit k where ``leaves[k][n]``; there is no row for the last exit."""

    leaves: Tensor

    def stop(self, k: int, answer: Answer, memo: Memo) -> Tensor:
        del answer
        return self.leaves[k, memo[0].long()]

    @property
    def exits(self) -> NDArray[np.int64]:
        """Where each sample leaves, (N,)."""
        last = torch.ones(1, self.leaves.shape[1], dtype=torch.bool)
        return np.asarray(torch.cat([self.leaves, last]).numpy().argmax(0), np.int64)


def write_script(seed: int, num_exits: int, count: int, often: float) -> Script:
    """Each sample may leave at each exit, so ``often``."""
    return Script(torch.from_numpy(np.random.default_rng(seed).random((num_exits - 1, count)) < often))


def samples(count: int) -> Tensor:
    """The numbers 0, 1, …"""
    return torch.arange(count, dtype=torch.float32)


def pieces(images: Tensor, *sizes: int) -> Iterator[Tensor]:
    """Batches of such sizes, over and over."""
    first = 0
    while first < len(images):
        for size in sizes:
            yield images[first : first + size]
            first += size
