"""Cutting a traced module into pieces that hand over tensors."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from offramp.errors import ConfigError, reason


@dataclass(frozen=True)
class Piece:
    """Part of a module."""

    body: fx.GraphModule
    """Takes what earlier pieces kept, and gives the value the piece ends with and a tuple of what later pieces read."""
    shape: tuple[int, ...]
    """Of the value it ends with, without the axis of the samples."""


def split(module: nn.Module, at: Sequence[str], example: Callable[[int], Tensor]) -> list[Piece]:
    """Pieces that end behind the modules named in ``at``, and a last one that ends with the answer.

    A piece computes what its end needs and no earlier one has computed. Modules that hold no cut are never looked into, so
    that whatever they do in Python works; those around a cut have to be traceable by ``torch.fx``.

    Args:
        module: from images to logits.
        at: dotted names of modules, each called once, in the order they run.
        example: so many images.

    Raises:
        ConfigError: no such module, or it runs more than once or in another order, or weights are used on both sides of a
            cut, or the module cannot be traced or does other things in training than its modules say.
    """
    graph = _traced(module, at)
    values, batched = _run(module, graph, example)
    (answer,) = next(node for node in graph.nodes if node.op == "output").args
    ends = [*(_call(graph, name) for name in at), answer]
    if answer in ends[:-1]:
        raise ConfigError(
            f"at: '{at[ends.index(answer)]}' gives the answer itself, which is the last exit anyway; cut before it"
        )
    order = {node: place for place, node in enumerate(graph.nodes)}
    places = [order[end] for end in ends]
    if places != sorted(places):
        ran = sorted(at, key=lambda name: order[_call(graph, name)])
        raise ConfigError(f"at={tuple(at)}: these run in another order; write {', '.join(ran)}")
    images = next(node for node in graph.nodes if node.op == "placeholder")
    have, owned = {images}, []
    for end in ends:
        own = sorted(_missing(end, have), key=order.__getitem__)
        owned.append(own)
        have |= {node for node in own if node in batched}
    _check_weights(module, owned)
    pieces, reads = [], [images]
    for number, (end, own) in enumerate(zip(ends, owned, strict=True)):
        rest = owned[number + 1 :]
        later = {node for part in rest for one in part for node in one.all_input_nodes}
        available = {*reads, *own}
        keeps = sorted((node for node in later & available if node in batched or node is images), key=order.__getitem__)
        pieces.append(Piece(_piece(module, reads, own, end, keeps), tuple(values[end].shape[1:])))
        reads = keeps
    return pieces


@contextlib.contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """All parts in training or in evaluation inside the block, and as they were behind it."""
    modes = {part: part.training for part in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


class _Tracer(fx.Tracer):
    """Looks into the modules around the cuts only."""

    def __init__(self, at: Sequence[str]) -> None:
        super().__init__()
        self._at = tuple(at)

    def create_arg(self, a: Any) -> Any:
        """As fx does it, but for tensors that it would hang on somebody's module."""
        known = (*self.root.parameters(), *self.root.buffers(), *self.tensor_attrs)
        if isinstance(a, Tensor) and all(a is not one for one in known):
            raise ValueError("a tensor is made there that no module holds")
        return super().create_arg(a)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 - as fx calls it
        return not any(name.startswith(f"{module_qualified_name}.") for name in self._at)


def _traced(module: nn.Module, at: Sequence[str]) -> fx.Graph:
    known = dict(module.named_modules())
    for name in at:
        if name not in known or not name:
            raise ConfigError(f"at: the module has no part called '{name}'; named_modules() lists them")
    found = []
    try:
        for training in (True, False):
            with in_mode(module, training):
                found.append(_Tracer(at).trace(module))
    except Exception as error:  # whatever the forward of somebody's module raises at a stand-in for a tensor
        raise ConfigError(
            f"at={tuple(at)}: the code around these modules cannot be traced ({reason(error)}); cut between other modules"
        ) from None
    if str(found[0]) != str(found[1]):
        raise ConfigError(
            f"at={tuple(at)}: the code around these modules does something else in training; "
            "make that a module of its own, such as nn.Dropout, or cut between other modules"
        )
    return found[1]


def _call(graph: fx.Graph, name: str) -> fx.Node:
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == name]
    if len(calls) != 1:
        raise ConfigError(f"at: '{name}' runs {len(calls)} times; an exit stands behind a module that runs once")
    (call,) = calls
    assert isinstance(call, fx.Node)
    return call


class _Recorder(fx.Interpreter):
    """Keeps what every node gave."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph, garbage_collect_values=False)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = super().run_node(n)
        return self.values[n]


@torch.no_grad()
def _run(
    module: nn.Module, graph: fx.Graph, example: Callable[[int], Tensor]
) -> tuple[dict[fx.Node, Any], set[fx.Node]]:
    """What every node gives, and the nodes whose first axis counts samples."""
    seen = []
    with in_mode(module, training=False):
        for count in (2, 3):
            recorder = _Recorder(module, graph)
            recorder.run(example(count))
            seen.append(recorder.values)
    two, three = seen

    def counts(value: Any, count: int) -> bool:
        return isinstance(value, Tensor) and value.ndim > 0 and len(value) == count

    return two, {node for node in two if counts(two[node], 2) and counts(three[node], 3)}


def _missing(end: fx.Node, have: set[fx.Node]) -> list[fx.Node]:
    """What has to be computed for ``end``."""
    found: dict[fx.Node, None] = {}
    ahead = [end]
    while ahead:
        node = ahead.pop()
        if node not in have and node not in found:
            found[node] = None
            ahead += node.all_input_nodes
    return list(found)


def _check_weights(module: nn.Module, owned: Sequence[Sequence[fx.Node]]) -> None:
    holders: dict[int, tuple[int, str]] = {}
    for number, own in enumerate(owned):
        for node in own:
            for weight in _weights(module, node):
                first, name = holders.setdefault(id(weight), (number, str(node.target)))
                if first != number:
                    raise ConfigError(
                        f"at: the weights of '{name}' are used on both sides of a cut; cut where each has its own"
                    )


def _weights(module: nn.Module, node: fx.Node) -> list[Tensor]:
    if node.op == "call_module":
        part = module.get_submodule(str(node.target))
        return [*part.parameters(), *part.buffers()]
    if node.op == "get_attr":
        path, _, name = str(node.target).rpartition(".")
        found = getattr(module.get_submodule(path), name)
        return [found] if isinstance(found, Tensor) else []
    return []


def _piece(
    module: nn.Module, reads: Sequence[fx.Node], own: Sequence[fx.Node], end: fx.Node, keeps: Sequence[fx.Node]
) -> fx.GraphModule:
    graph = fx.Graph()
    made = {node: graph.placeholder(node.name) for node in reads}
    for node in own:
        made[node] = graph.node_copy(node, made.__getitem__)
    graph.output((made[end], tuple(made[node] for node in keeps)))
    return fx.GraphModule(module, graph)
