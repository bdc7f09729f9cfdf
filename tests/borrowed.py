"""A borrowed machine, as far as the scripts in benchmarks/gpu can tell, and a small data set for it."""

import importlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from offramp.data.cifar import CIFAR10_CLASSES

GPU = Path(__file__).parent.parent / "benchmarks" / "gpu"


def script(name: str) -> Any:
    """One of the scripts as a module."""
    if str(GPU) not in sys.path:
        sys.path.append(str(GPU))
    return importlib.import_module(name)


@dataclass(frozen=True)
class Machine:
    """A place with its own runs, inputs and data, of which the scripts know nothing else."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def inputs(self) -> Path:
        return self.home / "inputs"

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | self.environment
        command = ["bash", str(GPU / "run.sh"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=250)

    def unpack(self) -> subprocess.CompletedProcess[str]:
        return self.run("unpack", "--inputs", self.inputs, "--data-root", self.data)

    def job(self, *options: object) -> subprocess.CompletedProcess[str]:
        small = ("--device", "cpu", "--tiny", "--data-root", self.data, "--runs", self.runs)
        return self.run("cifar10-paper", *small, *options)


def pack(origin: Path, out: Path, limit_mib: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(GPU / "pack.py"), "cifar10", "--data-root", str(origin), "--out", str(out)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(GPU.parent.parent / part) for part in ("src", "runtime/src"))
    }
    return subprocess.run(
        [*command, "--limit-mib", str(limit_mib)], capture_output=True, text=True, env=environment, check=False
    )


def write_parquet(path: Path, count: int, seed: int) -> None:
    """CIFAR-10's layout, each class a bright stripe of its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = np.arange(count) % 10
    images = np.random.default_rng(seed).integers(0, 60, (count, 32, 32, 3), np.uint8)
    cells = []
    for image, label in zip(images, labels, strict=True):
        image[3 * label : 3 * label + 3] += 150
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "png")
        cells.append({"bytes": buffer.getvalue()})
    described = {"info": {"features": {"label": {"names": CIFAR10_CLASSES.split()}}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"img": cells, "label": labels})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(described)}), path)


def write_origin(root: Path) -> Path:
    """A data root with a small cifar10 in it, three files of about 0.2 MiB."""
    for name, count in (("train-00000-of-00002", 80), ("train-00001-of-00002", 80), ("test-00000-of-00001", 60)):
        write_parquet(root / "cifar10" / f"{name}.parquet", count, count + len(name))
    return root
