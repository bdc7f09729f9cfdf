"""What runtime ``native`` makes of a network, taken apart: in one piece, and step by step under a clock."""

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch import Tensor

from graphs import Run
from offramp.engine.graphs import whole_graph
from offramp.nets.base import MultiExitNet
from offramp_runtime import graph
from offramp_runtime.native.code import write_code
from offramp_runtime.native.compiler import compile_library, vectors
from offramp_runtime.native.layers import Conv, Network, read_network
from offramp_runtime.native.placing import Place, place
from offramp_runtime.native.stages import NativeStages, build
from offramp_runtime.native.steps import Step
from offramp_runtime.precision import Precision

_PROFILE = """
#include <time.h>

void profile(const float *images, float *const *memories, float *scratch, float *logits, const float *weights, long count,
             double *ms) {
    begin(images, memories, count);
    for (long n = 0; n < count; n++)
        for (long i = 0; i < (long)(sizeof steps / sizeof *steps); i++) {
            struct timespec from, to;
            clock_gettime(CLOCK_MONOTONIC, &from);
            steps[i](memories[n], scratch, logits + n * CLASSES, weights, 0, 1);
            clock_gettime(CLOCK_MONOTONIC, &to);
            ms[i] += 1e3 * (to.tv_sec - from.tv_sec) + 1e-6 * (to.tv_nsec - from.tv_nsec);
        }
}
"""


def open_piece(graph_of: MultiExitNet | Path, images: Tensor, precision: Precision = "fp32") -> Run:
    """What runs all stages of a network, or of its quantised graph, in one call, all its exits included."""
    network = _network(graph_of, precision)
    one = replace(network, stages=dict.fromkeys(network.stages, 0) | {"images": -1}, ways=(frozenset(network.stages),))
    with TemporaryDirectory() as place_of:
        build(one, vectors(precision), Path(place_of))
        stages = NativeStages(Path(place_of), threads=1)
    array = images.numpy()
    return lambda: stages.step(0, stages.start(array))


def profile(
    graph_of: MultiExitNet | Path, images: Tensor, precision: Precision, runs: int
) -> Iterator[tuple[str, str, float]]:
    """Every step of all stages: its name, its kind and shape, ms for all images; ``runs`` times."""
    network, of_cpu = _network(graph_of, precision), vectors(precision)
    layout = place(network, of_cpu)
    code = write_code(network, layout, of_cpu)
    with TemporaryDirectory() as place_of:
        path = Path(place_of) / "profiled.so"
        compile_library(code.text + _PROFILE, path)
        library = ctypes.CDLL(str(path))
    given = images.numpy()
    memory, scratch = np.zeros((len(given), layout.memory), np.float32), np.zeros(layout.scratch, np.float32)
    memories = memory.ctypes.data + np.arange(len(given), dtype=np.uintp) * memory.strides[0]
    logits = np.zeros(len(given) * network.shapes[graph.logits_name(0)][0], np.float32)
    for run in range(runs + 1):
        ms = np.zeros(len(layout.steps))
        arrays = [array.ctypes.data_as(ctypes.c_void_p) for array in (given, memories, scratch, logits, code.weights)]
        library.profile(*arrays, ctypes.c_long(len(given)), ms.ctypes.data_as(ctypes.c_void_p))
        for step, taken in zip(layout.steps, ms, strict=True) if run else ():  # the first one wakes it
            yield step.sink, _kind(step, layout.places[step.sink], len(given)), float(taken)


def _network(graph_of: MultiExitNet | Path, precision: Precision) -> Network:
    if isinstance(graph_of, Path):
        whole = graph.read(graph_of)
        return read_network(whole, len(whole.graph.output))
    return read_network(whole_graph(graph_of, bounds=precision == "fp32", align=1), graph_of.num_exits)


def _kind(step: Step, sink: Place, count: int) -> str:
    shape = f"{count}x{sink.channels}x{sink.plane.height}x{sink.plane.width}"
    if isinstance(step.does, Conv):
        height, width = step.does.weight.shape[2:]
        return f"Conv {height}x{width} (vectors of {'pixels' if step.over_pixels else 'channels'}) → {shape}"
    return f"{type(step.does).__name__} → {shape}"
