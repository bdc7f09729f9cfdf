"""Which operators the time goes to."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import native
from graphs import ENGINES, Run, export, onnx_session, openvino_model
from offramp.nets.base import MultiExitNet
from offramp.report.tables import Table
from offramp_runtime.precision import check_precision

Timed: TypeAlias = tuple[str, str, float]
"""One call: the operator's own name, its kind and shape, ms."""


@dataclass(frozen=True)
class Operator:
    """All operators of one kind and shape."""

    name: str
    calls: int
    """Per run."""
    ms: float
    """All calls of one run."""
    share: float
    """Of the time in operators."""


def costliest(
    engine: str, graph: nn.Module | Path, run: Run, images: Tensor, precision: str, count: int = 5
) -> list[Operator]:
    """The operators that take longest, one thread.

    Args:
        engine: a runtime's name. ``onnx`` and ``openvino`` profile ``graph``, ``native`` all stages of its network,
            others ``run`` itself.
        graph: the network, or the part of it that is asked about, or the file of its graph.
        run: what was timed.
        images: for the graph.
        precision: of the graph.
        count: how many to return.
    """
    runs = 20 if len(images) == 1 else 2
    if engine == "native":
        whole = graph if isinstance(graph, MultiExitNet | Path) else getattr(graph, "net", None)
        assert isinstance(whole, MultiExitNet | Path)
        return _grouped(list(native.profile(whole, images, check_precision(precision), runs)), runs)[:count]
    if engine not in ENGINES:
        return _grouped(_torch(run, runs), runs)[:count]
    profile = _onnx if engine == "onnx" else _openvino
    with TemporaryDirectory() as place:
        path = graph if isinstance(graph, Path) else Path(place) / "net.onnx"
        if not isinstance(graph, Path):
            export(graph, images, path)
        return _grouped(profile(path, images, precision, runs), runs)[:count]


def operator_table(operators: list[Operator]) -> Table:
    """Costliest first."""
    rows = tuple((one.name, str(one.calls), f"{one.ms:.3f}", f"{100 * one.share:.1f}") for one in operators)
    return Table(("operator → shape of its output, or ← of its inputs", "calls", "ms", "% of all operators"), rows)


def _onnx(path: Path, images: Tensor, _precision: str, runs: int) -> list[Timed]:
    with TemporaryDirectory() as place:
        session = onnx_session(path, 1, Path(place) / "profile")
        for _ in range(runs):
            session.run(None, {"images": images.numpy()})
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    return [
        (
            event["name"],
            f"{event['args']['op_name']} → {_output(event['args']['output_type_shape'])}",
            event["dur"] / 1e3,
        )
        for event in nodes
    ]


def _openvino(path: Path, images: Tensor, precision: str, runs: int) -> list[Timed]:
    model = openvino_model(path, images, precision, 1, profile=True)
    nodes = {node.get_friendly_name(): node for node in model.get_runtime_model().get_ops()}
    request = model.create_infer_request()
    seen = []
    for _ in range(runs):
        request.infer([images.numpy()], share_inputs=True, share_outputs=True)
        for info in request.profiling_info:
            node = nodes.get(info.node_name)
            shape = _shape(node.get_output_shape(0)) if node is not None and node.get_output_size() else "nothing"
            kind = f"{info.node_type} ({info.exec_type}) → {shape}"
            seen.append((info.node_name, kind, info.real_time.total_seconds() * 1e3))
    return seen


def _torch(run: Run, runs: int) -> list[Timed]:
    seen: list[Timed] = []
    with torch.inference_mode():
        run()
        for _ in range(runs):
            with _Clock() as clock:
                run()
            seen += clock.seen
    return seen


class _Clock(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Times every operator; PyTorch's profiler allocates so much meanwhile that tensors come from fresh pages."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Timed] = []

    def __torch_dispatch__(
        self, operator: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        began = time.perf_counter_ns()
        result = operator(*args, **kwargs or {})
        ms = (time.perf_counter_ns() - began) / 1e6
        shapes = (_shape(value.shape) for value in tree_leaves(args) if isinstance(value, Tensor))
        self.seen.append((f"{len(self.seen)}", f"{operator.overloadpacket.__name__} ← {', '.join(shapes)}", ms))
        return result


def _output(shapes: Iterable[dict[str, list[int]]]) -> str:
    """Of the first output; ONNX Runtime gives a list of {type: shape}."""
    for shape in shapes:
        return _shape(next(iter(shape.values())))
    return "nothing"


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _grouped(seen: list[Timed], runs: int) -> list[Operator]:
    """By kind, longest first; each operator at its median, since profilers only know wall time."""
    times: dict[tuple[str, str], list[float]] = {}
    for name, kind, ms in seen:
        times.setdefault((kind, name), []).append(ms)
    total: dict[str, float] = {}
    calls: dict[str, float] = {}
    for (kind, _), several in times.items():
        each = len(several) / runs
        total[kind] = total.get(kind, 0) + median(several) * each
        calls[kind] = calls.get(kind, 0) + each
    whole = sum(total.values())
    found = [Operator(kind, round(calls[kind]), ms, ms / whole) for kind, ms in total.items()]
    return sorted(found, key=lambda one: -one.ms)
