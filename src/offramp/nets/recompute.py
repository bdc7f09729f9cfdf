"""Memory of training for time: what a network computes again in backward instead of keeping it.

In a dense network every layer reads all earlier ones of its block. What is kept for backward of that reading (the
concatenation and its normed copy) grows with the square of the depth; all the rest only with the depth (Pleiss et al.,
arXiv:1707.06990).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from offramp.errors import ConfigError
from offramp.nets.layers import draws

Recompute = Literal["none", "layers", "all"]
"""``layers``: concatenation, norm, ReLU and the convolution that reads them, in every dense layer; ``all``: whole layers."""


@runtime_checkable
class Recomputing(Protocol):
    """A module that can keep less."""

    recompute: Recompute
    dense: bool
    """Whether it reads all that came before it, which is what makes memory grow; in a network without such there is
    nothing to gain."""


def set_recompute(net: nn.Module, recompute: str) -> None:
    """Have all layers of a network keep less for backward, or everything again.

    Raises:
        ConfigError: no such choice, or a network none of whose layers can.
    """
    if recompute not in get_args(Recompute):
        raise ConfigError(f"recompute={recompute}: choose one of {', '.join(get_args(Recompute))}")
    able = [module for module in net.modules() if isinstance(module, Recomputing)]
    if not any(module.dense for module in able) and recompute != "none":
        raise ConfigError(f"recompute={recompute}: {type(net).__name__} has no dense layers; leave it at none")
    for module in able:
        module.recompute = recompute  # type: ignore[assignment]


def run(function: Callable[..., Tensor], owner: nn.Module, again: bool, *features: Tensor) -> Tensor:
    """``function(*features)``.

    Args:
        function: a part of ``owner``.
        owner: whose norms must not see the same batch twice.
        again: keep nothing of it but ``features``; backward computes it again, with the same dropout masks.
        features: what it reads.
    """
    if not (again and torch.is_grad_enabled()):
        return function(*features)

    if torch.compiler.is_compiling():  # the compiler runs the function once and decides itself what to keep of it
        compiled: Tensor = checkpoint(function, *features, use_reentrant=False)
        return compiled

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(owner)

    result: Tensor = checkpoint(
        function, *features, use_reentrant=False, context_fn=contexts, preserve_rng_state=draws(owner)
    )
    return result


@contextmanager
def _statistics_kept(owner: nn.Module) -> Iterator[None]:
    """Let the norms update copies of their statistics, which are dropped."""
    norms = [module for module in owner.modules() if isinstance(module, _BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({name: None if b is None else b.clone() for name, b in norm._buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)
