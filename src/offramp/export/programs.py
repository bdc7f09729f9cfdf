"""A network as programs of ``torch.export``: one per stage, and one straight to each exit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from offramp.nets.base import MultiExitNet
from offramp.shapes import State
from offramp_runtime.graph import IMAGES, logits_name

_NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack")
"""On the source code every node was made from; they hold the paths of this machine."""


@dataclass(frozen=True, eq=False)
class Program:
    """Takes tensors one by one, and gives the logits and then what the next stage reads, in its order."""

    exported: ExportedProgram
    reads: dict[str, tuple[int, ...]]
    """Of every input a name, by which a later one is known, and its shape without the first axis, which counts samples."""
    gives: dict[str, tuple[int, ...]]
    """The same of every output."""


class _Stage(nn.Module):
    """A stage of tensors in a row; states have gaps, which programs cannot be given."""

    def __init__(self, net: MultiExitNet, k: int, places: tuple[int, ...], length: int) -> None:
        super().__init__()
        self.net, self.k, self.places, self.length = net, k, places, length

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        state: list[Tensor | None] = [None] * self.length
        for place, tensor in zip(self.places, tensors, strict=True):
            state[place] = tensor
        after, logits = self.net.step(self.k, tuple(state))
        return logits, *_present(after)


class _Direct(nn.Module):
    def __init__(self, net: MultiExitNet, k: int) -> None:
        super().__init__()
        self.net, self.k = net, k

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        (images,) = tensors
        return (self.net.direct(self.k, images),)


@torch.no_grad()
def stage_programs(net: MultiExitNet, samples: int | None = None) -> Iterator[Program]:
    """Yield the program of stage 0, 1, …

    Args:
        net: as :func:`prepared` makes it.
        samples: how many every call will have; None leaves it open.
    """
    state = net.start(_example(net, samples))
    reads: tuple[str, ...] = (IMAGES,)
    for k in range(net.num_exits):
        given = _present(state)
        stage = _Stage(net, k, tuple(place for place, tensor in enumerate(state) if tensor is not None), len(state))
        state, logits = net.step(k, state)
        made = _present(state)
        gives = logits_name(k), *(f"stage{k}_{number}" for number in range(len(made)))
        yield Program(_exported(stage, given, samples), _shapes(reads, given), _shapes(gives, (logits, *made)))
        reads = gives[1:]


@torch.no_grad()
def direct_programs(net: MultiExitNet, samples: int | None = None) -> Iterator[Program]:
    """Yield the program straight to exit 0, 1, …; see :func:`stage_programs`."""
    images = _example(net, samples)
    for k in range(net.num_exits):
        made = _shapes((logits_name(k),), (net.direct(k, images),))
        yield Program(_exported(_Direct(net, k), (images,), samples), _shapes((IMAGES,), (images,)), made)


def prepared(net: MultiExitNet) -> MultiExitNet:
    """A copy on the CPU, for inference, whose weights can be stored: each has memory of its own."""
    fused = net.fused().cpu().eval().requires_grad_(False)
    for weight in (*fused.parameters(), *fused.buffers()):
        weight.data = weight.data.clone(memory_format=torch.contiguous_format)
    return fused


def _exported(module: nn.Module, given: tuple[Tensor, ...], samples: int | None) -> ExportedProgram:
    axes = None if samples is not None else {"tensors": ({0: Dim("samples", min=1)},) * len(given)}
    exported = torch.export.export(module.eval(), given, dynamic_shapes=axes, strict=False)
    _drop_unused(exported)
    for node in exported.graph.nodes:
        for note in _NOTES:
            node.meta.pop(note, None)
    return exported


def _drop_unused(exported: ExportedProgram) -> None:
    """Weights of other stages, which every program would hold else."""
    inputs = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    for spec in list(exported.graph_signature.input_specs):
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and not inputs[spec.arg.name].users:
            exported.graph.erase_node(inputs[spec.arg.name])
            exported.graph_signature.input_specs.remove(spec)
            exported.state_dict.pop(spec.target, None)
    exported.graph_module.recompile()


def _example(net: MultiExitNet, samples: int | None) -> Tensor:
    side = net.config.image_size
    return torch.zeros(samples or 2, net.config.image_channels, side, side)  # one would be taken for a constant


def _present(state: State) -> tuple[Tensor, ...]:
    return tuple(tensor for tensor in state if tensor is not None)


def _shapes(names: Sequence[str], tensors: Sequence[Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape[1:]) for name, tensor in zip(names, tensors, strict=True)}
