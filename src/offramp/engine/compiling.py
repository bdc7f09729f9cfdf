"""Native code from modules, by PyTorch's compiler."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from offramp.errors import ArtifactError, ConfigError, reason
from offramp.nets.base import MultiExitNet
from offramp_runtime.cache import cache_folder, cached

Graph: TypeAlias = Callable[..., Sequence[Tensor]]
"""Tensors to tensors."""
_CODE = "graph.pt2"


class StageGraph(nn.Module):
    """A stage whose inputs and outputs are all tensors: the parts of the state that are there; behind them the logits.

    Args:
        net: whose stage it is.
        k: which one.
        filled: which parts of the state before it are tensors.
    """

    def __init__(self, net: MultiExitNet, k: int, filled: Sequence[bool]) -> None:
        super().__init__()
        self.net, self.k = net, k
        self.filled = tuple(filled)

    def forward(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """The parts of the next state that are there, and the logits (N, C), float32."""
        given = iter(parts)
        state, logits = self.net.step(self.k, tuple(next(given) if filled else None for filled in self.filled))
        return *(part for part in state if part is not None), logits.float()


class WayGraph(nn.Module):
    """The way straight to exit k."""

    def __init__(self, net: MultiExitNet, k: int) -> None:
        super().__init__()
        self.net = net
        self.k = k

    def forward(self, *parts: Tensor) -> tuple[Tensor]:
        """The logits (N, C), float32, of images (N, C, H, W); both alone."""
        (images,) = parts
        return (self.net.direct(self.k, images).float(),)


def compile_ahead(
    module: nn.Module, example: Sequence[Tensor], belongs_to: Mapping[str, object], *, threads: int
) -> Graph:
    """A library for this CPU, from the cache if it has been made before. Calls may come from several threads.

    Args:
        module: what to compile, in eval mode.
        example: inputs; with more than one sample the code is made for any number of them above one.
        belongs_to: plain values; what the cache knows it by.
        threads: that compute a call.

    Raises:
        ArtifactError: the cache cannot be written, or what it holds cannot be loaded.
        ConfigError: the code does not compute what the module does.
    """
    _keep_what_is_compiled()
    # Not with max_autotune: the compiler's own matrix products take longer to make, and on a CPU without AMX a
    # CIFAR MSDNet took 13 ms with them and 9 to 10 with the libraries' (benchmarks/compiled.py).
    options = {"freezing": True, "cpp.threads": threads}
    belongs_to = {**belongs_to, "options": options}

    def make(folder: Path) -> None:
        _make(module, example, folder / _CODE, options)
        if not _is_right(module, example, folder / _CODE):
            # PyTorch 2.13 may lay weights out wrongly beforehand: it does in ResNets with stochastic depth, for one image.
            _make(module, example, folder / _CODE, options | {"freezing": False})
            if not _is_right(module, example, folder / _CODE):
                raise ConfigError(
                    f"PyTorch {torch.__version__} compiles this network wrongly here; take another runtime, such as "
                    "'eager' or 'onnx'"
                )

    return _load(cached("compiled", belongs_to, make) / _CODE)


def compile_in_place(module: nn.Module, *, single: bool) -> Graph:
    """For a GPU, compiled at the first call; for a single sample as one CUDA graph."""
    _keep_what_is_compiled()
    if not single:
        return torch.compile(module, fullgraph=True, dynamic=True)
    replayed = torch.compile(module, fullgraph=True, dynamic=False, mode="reduce-overhead")

    def run(*inputs: Tensor) -> list[Tensor]:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return [part.clone() for part in replayed(*inputs)]  # the next replay writes to the same memory

    return run


def _make(module: nn.Module, example: Sequence[Tensor], path: Path, options: Mapping[str, bool | int]) -> None:
    from torch._inductor import aoti_compile_and_package

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the compiler's own making
        batch = {} if len(example[0]) == 1 else {0: torch.export.Dim.DYNAMIC}
        program = torch.export.export(module, tuple(example), dynamic_shapes=((batch,) * len(example),))
        aoti_compile_and_package(program, package_path=str(path), inductor_configs=dict(options))


@torch.no_grad()
def _is_right(module: nn.Module, example: Sequence[Tensor], path: Path) -> bool:
    """Whether the code computes what the module does, before anybody relies on it."""
    # Of the largest; rounding leaves 1e-6 in fp32 and 1e-2 in bf16.
    tolerance = 0.1 if example[0].dtype == torch.bfloat16 else 1e-4
    pairs = zip(_load(path)(*example), module(*example), strict=True)
    return all(float((found - wanted).abs().max()) <= tolerance * float(wanted.abs().max()) for found, wanted in pairs)


def _load(path: Path) -> Graph:
    from torch._inductor import aoti_load_package

    try:
        return aoti_load_package(str(path))
    except RuntimeError as error:
        raise ArtifactError(
            f"{path}: cannot be loaded ({reason(error)}); remove its folder, and it is compiled anew"
        ) from None


def _keep_what_is_compiled() -> None:
    # Else PyTorch takes, once it first looks, a folder that a restart may empty.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
