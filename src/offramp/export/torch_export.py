"""Format ``torch-export``: programs of ``torch.export``, which plain PyTorch runs without this package.

A stage takes what the one before has given after the logits, in that order::

    state = [images]  # normalised, (N, C, H, W)
    for k in range(num_exits):
        logits, *state = torch.export.load(f"stage-{k}.pt2").module()(*state)

Every file holds the weights it needs, so that most are stored several times: once with their stage, and once with each way
straight to an exit that uses them.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from offramp.engine.opening import Subject
from offramp.export.bundle import Format, GraphFacts, described
from offramp.export.programs import direct_programs, prepared, stage_programs


def _write(subject: Subject, folder: Path) -> Sequence[GraphFacts]:
    net = prepared(subject.net)
    facts: list[GraphFacts] = []
    for k, (stage, direct) in enumerate(zip(stage_programs(net), direct_programs(net), strict=True)):
        names = {"stage": f"stage-{k}.pt2", "direct": f"direct-{k}.pt2"}
        torch.export.save(stage.exported, folder / names["stage"])
        torch.export.save(direct.exported, folder / names["direct"])
        facts.append({**names, "reads": described(stage.reads), "gives": described(stage.gives)})
    return facts


FORMATS = {"torch-export": Format(("fp32",), _write, ("torch",))}
