"""What each choice of the quantiser does to the shipped CIFAR-10 model: agreement, accuracy and time in both runtimes.

Compared on images held out from training: the test images are for what was chosen (verify.py).
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

import offramp
from common import header, interleaved, keep, markdown, spread
from offramp.catalog import lookup
from offramp.data.source import Samples
from offramp.engine import int8
from offramp.engine.graphs import write_whole
from offramp.report.tables import Table
from offramp_runtime.openvino_core import core

Array = NDArray[np.float32]
Run = Callable[[Array], Array]
_ROUNDS, _ROUNDS_64, _BATCH, _CALIBRATION = 60, 8, 50, 512


def _quantizer(**changes: object) -> Any:
    """The quantiser with some arguments changed."""
    return patch(
        "onnxruntime.quantization.qdq_quantizer.QDQQuantizer",
        lambda model, **given: QDQQuantizer(model, **{**given, **changes}),
    )


VARIANTS: Mapping[str, Callable[[], list[Any]]] = {
    "as chosen": list,
    "weights with 8 bits": lambda: [_quantizer(reduce_range=False)],
    "signed activations": lambda: [_quantizer(activation_qType=QuantType.QInt8)],
    "a range per tensor": lambda: [patch.object(int8, "_SAME_RANGE", ("MaxPool",))],
    "first convolution too": lambda: [patch.object(int8, "_stem", lambda _plain: [])],
    "classifiers too": lambda: [patch.object(int8, "_OPERATORS", (*int8._OPERATORS, "ReduceMean", "Gemm"))],
    "biases as they were": lambda: [patch.object(int8, "_correct_biases", lambda *_: None)],
}
"""What is replaced in the quantiser."""


def main() -> None:
    """Print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True, help="folder above cifar10/")
    torch.set_num_threads(1)
    source = lookup("data set", "cifar10", "data", "SOURCES").open(parser.parse_args().data_root)
    model = offramp.load("cifar10", runtime="eager")
    held_out, train = source.split("calibrate"), source.split("train")
    images = _normalised(model, held_out)
    some = np.sort(np.random.default_rng(0).permutation(len(train))[:_CALIBRATION])
    seen = _normalised(model, train.take(some))
    with tempfile.TemporaryDirectory() as folder:
        paths = _graphs(model, seen, Path(folder))
        runs = {(name, kind): start(path) for name, path in paths.items() for kind, start in RUNTIMES.items()}
    logits = {key: _all_logits(run, images) for key, run in runs.items()}
    times = {
        count: interleaved({str(key): partial(run, images[:count]) for key, run in runs.items()}, rounds)
        for count, rounds in ((1, _ROUNDS), (64, _ROUNDS_64))
    }
    rows = []
    for key, found in logits.items():
        answers, wanted = found.argmax(-1), logits["float32", key[1]].argmax(-1)
        agreement = 100 * (answers == wanted).mean(1)
        change = 100 * ((answers == held_out.labels).mean(1) - (wanted == held_out.labels).mean(1))
        ms = [spread(times[count][str(key)]) for count in (1, 64)]
        rows.append((*key, _listed(agreement, ".2f"), _listed(change, "+.2f"), *ms))
    columns = ("setting", "runtime", "agreement %, each exit", "accuracy, points", "ms, 1 image", "ms, 64 images")
    text = header("Quantising the shipped CIFAR-10 model, one choice changed at a time", _ROUNDS)
    text += (
        f"\nWhole graph, one thread; {len(images):,} images held out from training, ranges from "
        f"{_CALIBRATION} training images; beside it the "
        f"same graph in float32. 64 images: n = {_ROUNDS_64}.\n\n"
    )
    keep("int8", text + markdown(Table(columns, tuple(rows))))


def _graphs(model: Any, seen: Array, folder: Path) -> dict[str, Path]:
    paths = {"float32": folder / "float32.onnx"}
    write_whole(model.net, paths["float32"])
    for name, changes in VARIANTS.items():
        paths[name] = folder / f"{name}.onnx"
        with ExitStack() as stack:
            for change in changes():
                stack.enter_context(change)
            int8.quantize(paths["float32"], [seen], paths[name])
    return paths


def _normalised(model: Any, samples: Samples) -> Array:
    batches = [model.preprocessing.normalize(torch.from_numpy(batch)) for batch in samples.batches(500)]
    found: Array = torch.cat(batches).contiguous().numpy()
    return found


def _in_onnxruntime(path: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: np.stack(session.run(None, {"images": images}))


def _in_openvino(path: Path) -> Run:
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    ready = {}
    for count in (1, 64, _BATCH):
        graph = core().read_model(path)
        graph.reshape({0: [count, *list(graph.input(0).partial_shape)[1:]]})
        ready[count] = core().compile_model(graph, "CPU", settings).create_infer_request()
    return lambda images: np.stack(list(ready[len(images)].infer({0: images}, share_inputs=True).values()))


RUNTIMES: Mapping[str, Callable[[Path], Run]] = {"onnx": _in_onnxruntime, "openvino": _in_openvino}


def _all_logits(run: Run, images: Array) -> Array:
    return np.concatenate([run(images[first : first + _BATCH]) for first in range(0, len(images), _BATCH)], axis=1)


def _listed(values: NDArray[np.float64], form: str) -> str:
    return " ".join(format(value, form) for value in values)


if __name__ == "__main__":
    main()
