"""On what a figure was obtained."""

import hashlib
import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import offramp
from offramp_runtime.machine import cpu_features, cpu_name


def describe_machine(device: torch.device) -> dict[str, str | int]:
    """Hardware, versions and commit, as plain values."""
    about = {"python": platform.python_version(), "offramp": offramp.__version__, "commit": _commit()}
    return _timing_facts(device) | about


def describe_packages() -> dict[str, str]:
    """Versions of what a training's figures may depend on."""
    names = ("torch", "numpy", "pillow", "safetensors", "pyarrow", "torchvision", "scikit-learn")
    return {name: version(name) for name in names if _installed(name)}


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def fingerprint(device: torch.device, runtime: str = "") -> str:
    """What measured milliseconds belong to, hardware, threads, PyTorch's version and runtime, as a short digest."""
    facts: dict[str, object] = {**_timing_facts(device), **({"runtime": runtime} if runtime else {})}
    if device.type == "cpu":  # whose name may be that of a whole family
        facts["features"] = sorted(cpu_features())
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _timing_facts(device: torch.device) -> dict[str, str | int]:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


def _commit() -> str:
    """The commit the package runs from, ``unknown`` where it is not part of a checkout."""
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # a repository around an installation is not ours
        return _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    found = subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
    )
    return found.stdout.strip()
