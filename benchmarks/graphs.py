"""Any network as one static graph in ONNX Runtime or OpenVINO, at one batch size."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

ENGINES = ("onnx", "openvino")
"""Named as the package's runtimes built on them."""

Run = Callable[[], object]


def open_graph(engine: str, net: nn.Module, images: Tensor, precision: str = "fp32", threads: int = 1) -> Run:
    """What runs ``net`` on these images once, everything it returns included."""
    with TemporaryDirectory() as place:
        path = Path(place) / "net.onnx"
        export(net, images, path)
        return open_file(engine, path, images, precision, threads)


def open_file(engine: str, path: Path, images: Tensor, precision: str = "fp32", threads: int = 1) -> Run:
    """The same for a graph that lies in a file; ``precision`` is that of what is not quantised there."""
    array = images.numpy()
    if engine == "onnx":
        session, feed = onnx_session(path, threads), {"images": array}
        return lambda: session.run(None, feed)
    request = openvino_model(path, images, precision, threads).create_infer_request()
    return lambda: request.infer([array], share_inputs=True, share_outputs=True)


def fold_norms(net: nn.Module) -> nn.Module:
    """A copy for inference in which convolutions have taken in the norms that follow them in a ``Sequential``."""
    folded = copy.deepcopy(net).eval()
    for parent in folded.modules():
        if isinstance(parent, nn.Sequential):
            for place, (layer, norm) in enumerate(zip(list(parent), list(parent)[1:], strict=False)):
                if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    parent[place], parent[place + 1] = fuse_conv_bn_eval(layer, norm), nn.Identity()
    return folded


def export(net: nn.Module, images: Tensor, path: Path) -> None:
    """Write an ONNX file for images of just this shape, norms folded.

    With the older exporter: it takes a second where the newer takes half a minute, and both give the same convolutions.
    """
    with warnings.catch_warnings(), torch.inference_mode(mode=False):
        warnings.simplefilter("ignore")
        torch.onnx.export(fold_norms(net), (images.clone(),), path, dynamo=False, input_names=["images"])


def onnx_session(path: Path, threads: int, profile: Path | None = None) -> Any:
    """An ONNX Runtime session; with ``profile`` it writes times of its operators to files that begin so."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def openvino_model(path: Path, images: Tensor, precision: str, threads: int, *, profile: bool = False) -> Any:
    """A compiled OpenVINO model for such images; with ``profile`` its requests know the times of their operators."""
    from offramp_runtime.openvino_core import core

    model = core().read_model(path)
    model.reshape(list(images.shape))
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "PERF_COUNT": profile,
    }
    return core().compile_model(model, "CPU", settings)
