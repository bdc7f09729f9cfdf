"""Tries every GPU path once and measures training steps: a table, and check.json in $OUT (or runs/gpu/check)."""

import argparse
import os
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import answer_paths
import runtime_paths
import torch
import training_paths
import waiting_paths
from throughput import throughput
from world import NotHereError, Trial, World, register

from offramp.measure.machine import describe_machine, describe_packages
from offramp_runtime.files import write_json

_ALL = {**training_paths.PATHS, **answer_paths.PATHS, **runtime_paths.PATHS, **waiting_paths.PATHS}
PATHS: dict[str, Trial] = dict(sorted(_ALL.items(), key=lambda item: "compiled" in item[0]))
"""Those that take long come last."""


@dataclass(frozen=True)
class Outcome:
    """What became of a path."""

    path: str
    outcome: str
    """ok, FAILED, needs CUDA, or not tried."""
    seconds: float
    note: str


def main() -> int:
    """Try, print, write; 1 if a path failed."""
    parser = argparse.ArgumentParser(prog="run.sh check", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="measure a small network, to try the script itself")
    parser.add_argument("--only", default="", metavar="TEXT", help="paths whose name holds this")
    parser.add_argument(
        "--seconds", type=float, default=120, help="for the paths; later ones are not tried (default 120)"
    )
    parser.add_argument("--no-throughput", action="store_true")
    parser.add_argument("--commit", help="the copy of the repository is of, where git cannot say it")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("run.sh check: there is no CUDA device here; take --device cpu --tiny to try the script\n")
        return 2
    device = torch.device(options.device)
    about = describe(device, options.commit)
    for name, value in about.items():
        print(f"{name}: {value}")
    found = try_all(device, options.only, options.seconds)
    report = {**about, "paths": [asdict(one) for one in found]}
    out = Path(os.environ.get("OUT") or "runs/gpu/check") / "check.json"
    write_json(out, report)
    if not options.no_throughput:
        report["throughput"] = throughput(
            device, options.tiny, lambda rows: write_json(out, report | {"throughput": rows})
        )
    failed = sum(one.outcome not in ("ok", "needs CUDA") for one in found)
    print(f"\n{len(found)} paths, {failed} not as they should be; {out}")
    return 1 if failed else 0


def try_all(device: torch.device, only: str, seconds: float) -> list[Outcome]:
    """Every path in its turn; one that fails does not stop the others."""
    register()
    began, found = time.monotonic(), []
    print(f"\n{'path':<52} {'outcome':<10} {'seconds':>7}  note")
    for name, path in PATHS.items():
        if only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            late = time.monotonic() - began > seconds
            one = (
                Outcome(name, "not tried", 0.0, "no time left")
                if late
                else attempt(name, path, World(device, Path(folder)))
            )
        found.append(one)
        print(f"{one.path:<52} {one.outcome:<10} {one.seconds:>7.2f}  {one.note}")
    return found


def attempt(name: str, path: Trial, world: World) -> Outcome:
    """One path."""
    began = time.perf_counter()
    try:
        outcome, note = "ok", path(world)
        if world.device.type == "cuda":
            torch.cuda.synchronize()
    except NotHereError:
        outcome, note = "needs CUDA", ""
    except Exception as error:  # whatever it is, the other paths are tried
        traceback.print_exc()
        outcome, note = "FAILED", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return Outcome(name, outcome, round(time.perf_counter() - began, 2), note)


def describe(device: torch.device, commit: str | None) -> dict[str, Any]:
    """Hardware, versions, commit, and how PyTorch computes here."""
    machine = describe_machine(device) | ({"commit": commit} if commit else {})
    return {
        "machine": machine, "packages": describe_packages(),
        "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "tf32": {
            "convolutions": torch.backends.cudnn.allow_tf32, "matrix products": torch.backends.cuda.matmul.allow_tf32,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        },
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
