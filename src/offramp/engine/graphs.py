"""A network as ONNX graphs: one per stage, one straight to each exit, all weights once."""

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from offramp.errors import ArtifactError, MissingExtraError
from offramp.nets.base import MultiExitNet
from offramp.nets.bounds import with_bounds
from offramp_runtime import graph
from offramp_runtime.machine import cpu_features
from offramp_runtime.precision import Precision

if TYPE_CHECKING:
    from onnx import ModelProto


def alignment(precision: Precision) -> int:
    """What channels are padded to a multiple of, with zeros.

    The runtimes keep channels in blocks, and reorder what does not fill them: of 8, or of 16 where there is AVX-512. Filling
    those would cost more than it saves, and filling half of them costs and saves nothing (figures: benchmarks/results/
    alignment.md). Of 8-bit numbers ONNX Runtime gains from it there too, OpenVINO loses less, and both read one graph.
    """
    return 1 if precision != "int8" and "avx512f" in cpu_features() else 8


class _AllExits(nn.Module):
    """The logits of all exits, as a tuple."""

    def __init__(self, net: MultiExitNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.net.walk(images))


def write_graphs(
    net: MultiExitNet,
    folder: Path,
    precision: Precision = "fp32",
    int8_graph: Path | None = None,
    align: int | None = None,
) -> None:
    """Write ``stage-k.onnx``, ``direct-k.onnx`` and their weights; float32, any number of images of the network's size.

    Args:
        net: any network, on any device.
        folder: an empty one.
        precision: that they will be computed in.
        int8_graph: for int8 the quantised graph of all exits, to be cut instead of that of ``net``.
        align: what channels are padded to a multiple of, except in ``int8_graph``; by default :func:`alignment`.

    Raises:
        MissingExtraError: the packages for it are not installed.
        ArtifactError: int8 of a model that has not been quantised.
    """
    _need_exporter()
    if precision == "int8":
        if int8_graph is None:
            raise ArtifactError(
                "this model has not been quantised; do it once with: offramp calibrate MODEL --precision int8 --data NAME"
            )
        whole = graph.read(int8_graph)
    else:
        align = alignment(precision) if align is None else align
        whole = whole_graph(net, bounds=precision == "fp32", align=align)
    write_cut(whole, net.num_exits, folder)


def write_cut(whole: "ModelProto", num_exits: int, folder: Path) -> None:
    """Cut the graph of all exits into what :func:`write_graphs` writes."""
    models = {f"stage-{k}.onnx": piece.model for k, piece in enumerate(graph.cut_stages(whole, num_exits))}
    models |= {f"direct-{k}.onnx": graph.cut_direct(whole, k).model for k in range(num_exits)}
    graph.write(models, folder)


def write_whole(net: MultiExitNet, path: Path) -> None:
    """Write the graph of all exits as one file, weights inside, in the form that can be quantised.

    Raises:
        MissingExtraError: the packages for it are not installed.
    """
    _need_exporter()
    path.write_bytes(whole_graph(net, bounds=False, align=alignment("int8")).SerializeToString())


def whole_graph(net: MultiExitNet, *, bounds: bool, align: int) -> "ModelProto":
    """The graph of all exits, with or without norms as bounds, channels padded to a multiple of ``align``."""
    _need_exporter()
    # Splitting a merged convolution's output costs more in blocks of channels than merging saves.
    fused = net.fused(align=align, merge=False).cpu()
    fused = with_bounds(fused) if bounds else fused
    side = net.config.image_size
    example = torch.zeros(2, net.config.image_channels, side, side)  # a batch of one would be taken for a constant
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it lists optional packages that are not needed
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter's own making
            program = torch.onnx.export(
                _AllExits(fused),
                (example,),
                dynamo=True,
                verbose=False,
                optimize=False,
                input_names=[graph.IMAGES],
                output_names=[graph.logits_name(k) for k in range(net.num_exits)],
                dynamic_shapes=({0: torch.export.Dim("samples", min=1)},),
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    return _stripped(program.model_proto)


def _stripped(model: "ModelProto") -> "ModelProto":
    """Without notes on the source code every node was made from, which hold the paths of this machine."""
    for part in (
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
        model.graph,
        model,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model


def _need_exporter() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"writing ONNX graphs needs {error.name}, which is not installed; install it: pip install 'offramp[onnx]'"
        ) from None
