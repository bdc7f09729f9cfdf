"""What prepared graphs and measured milliseconds depend on."""

import hashlib
import json
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = {"onnx": "onnxruntime", "native": "offramp-runtime"}
"""Distributions whose name is not the runtime's."""


@cache
def cpu_name() -> str:
    """As the system calls it."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


@cache
def cpu_features() -> frozenset[str]:
    """Instruction sets, as Linux spells them; empty where it does not tell."""
    return frozenset((_cpu_info("flags") or _cpu_info("Features")).split())


def version_of(package: str) -> str:
    """Of an installed distribution; empty where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def place_of(runtime: str, precision: str, threads: int) -> str:
    """What measured milliseconds belong to, as a short digest."""
    cpu = [cpu_name(), sorted(cpu_features()), usable_cores()]  # a name may be that of a whole family
    facts = [*cpu, runtime, version_of(_PACKAGES.get(runtime, runtime)), precision, threads]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def usable_cores() -> int:
    """Cores this process may run on, which a container may have fewer of than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_info(field: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field)
    return next(found, "")
