"""What stands in the way of a missed figure: the costliest operators, and the distance to what the hardware allows."""

from collections.abc import Iterable
from statistics import median

import torch
from torch import Tensor, nn

from common import markdown
from limits import Limits, slowed
from operators import costliest, operator_table
from phases import Measured


def explain(measured: Iterable[Measured], limits: Limits) -> list[str]:
    """A paragraph and a table for every missed figure."""
    return [_explained(one, limits) for one in measured if one.figure.missed]


def _explained(one: Measured, limits: Limits) -> str:
    figure, subject = one.figure, one.subject
    promise = figure.promise
    text = f"### {figure.title}, {figure.precision}, {figure.runtime}\n\n{promise.format(figure.value)} instead of "
    text += f"{promise.format(promise.must[figure.precision])}. "
    if subject is None or subject.part is None or one.images is None:
        return (
            text
            + "What a matrix product gains, and the same runtime without borders between stages, is in the table.\n"
        )
    least, taken = limits.ms(subject.macs), median(figure.ms)
    reading = limits.reading_ms(weights_read(subject.part, one.images))
    text += f"{subject.macs / 1e6:,.1f} MMAC take {least:.2f} ms at this core's float32 rate of {limits.gflops:.0f} GFLOP/s; "
    text += f"measured {taken:.2f} ms are {taken / least:.1f} times that. Reading the weights it needs once from memory, in "
    text += f"float32, takes {reading:.2f} ms. "
    text += f"In {figure.precision}: {reason}.\n\n" if (reason := slowed(figure.precision)) else "\n\n"
    operators = costliest(subject.engine, subject.graph or subject.part, subject.run, one.images, subject.precision)
    return text + markdown(operator_table(operators))


@torch.inference_mode()
def weights_read(part: nn.Module, images: Tensor) -> int:
    """Values in the weights of the layers that run."""
    read = []

    def add(layer: nn.Module, _inputs: object, _output: object) -> None:
        read.append(sum(weight.numel() for weight in layer.parameters(recurse=False)))

    hooks = [layer.register_forward_hook(add) for layer in part.modules()]
    part(images)
    for hook in hooks:
        hook.remove()
    return sum(read)
