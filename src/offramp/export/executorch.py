"""Format ``executorch``: programs for phones and the like, lowered to XNNPACK; one per stage, one image per call.

Memory is planned ahead, so the number of images is fixed. What stage k gives after the logits is what stage k + 1 takes, in
that order. There are no programs straight to an exit: they would hold all weights again.
"""

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from torch.export import ExportedProgram

from offramp.engine.opening import Subject
from offramp.errors import MissingExtraError
from offramp.export.bundle import Format, GraphFacts, described
from offramp.export.programs import prepared, stage_programs

_SAMPLES = 1


def _write(subject: Subject, folder: Path) -> Sequence[GraphFacts]:
    if find_spec("executorch") is None:
        raise MissingExtraError(
            "format 'executorch' needs executorch, which is not installed; install it: pip install 'offramp[mobile]'"
        )
    facts: list[GraphFacts] = []
    for k, program in enumerate(stage_programs(prepared(subject.net), _SAMPLES)):
        name = f"stage-{k}.pte"
        (folder / name).write_bytes(_lowered(program.exported))
        reads, gives = described(program.reads, _SAMPLES), described(program.gives, _SAMPLES)
        facts.append({"stage": name, "direct": None, "reads": reads, "gives": gives})
    return facts


def _lowered(exported: ExportedProgram) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own making
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    return bytes(lowered.buffer)


FORMATS = {"executorch": Format(("fp32",), _write, ("torch", "executorch"))}
