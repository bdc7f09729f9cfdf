"""``auto``: the fastest runtime for one network on this machine, measured once and remembered."""

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from offramp.engine.opening import AnyRuntime, Subject, open_runtime, runtimes
from offramp.errors import ArtifactError, ConfigError, OfframpError, OfframpWarning
from offramp.measure.machine import fingerprint
from offramp_runtime.cache import cache_folder, key_of
from offramp_runtime.files import read_json, write_json
from offramp_runtime.machine import version_of

FORMAT, VERSION = "offramp-choice", 1
PINNED = "OFFRAMP_RUNTIME"
"""Environment variable that names the runtime ``auto`` stands for, where that has been settled."""
_SECONDS = 1.0
"""To measure each runtime in, after it has been opened and run once."""
_RUNS = 20


def choose(subject: Subject, clock: Callable[[], float] = time.perf_counter) -> tuple[str, AnyRuntime]:
    """Name and runtime that answers one image at the last exit soonest.

    What needs minutes to prepare is not tried: ``compiled`` has to be asked for by name.

    Warns:
        OfframpWarning: one was left out for what may be otherwise tomorrow, such as a cache that cannot be written.

    Raises:
        ConfigError: no runtime here has the precision.
    """
    pinned = os.environ.get(PINNED)
    if pinned:
        return pinned, open_runtime(pinned, subject)
    able = [name for name, spec in runtimes().items() if spec.worth_trying and _possible(name, subject)]
    if not able:
        open_runtime("onnx" if subject.precision == "int8" else "eager", subject)  # says what is missing
        raise ConfigError(f"no runtime here has {subject.precision}; take another precision")
    if len(able) == 1:
        return able[0], open_runtime(able[0], subject)
    path = cache_folder() / "choices" / f"{_key(subject, able)}.json"
    known = _remembered(path)
    if known in able and not isinstance(runtime := _opened(known, subject), OfframpError):
        return known, runtime
    tried = {name: _opened(name, subject) for name in able}
    opened = {name: runtime for name, runtime in tried.items() if not isinstance(runtime, OfframpError)}
    refusals = [reason for reason in tried.values() if isinstance(reason, OfframpError)]
    if not opened:
        raise refusals[0]
    measured = {name: time_one(runtime, subject, clock) for name, runtime in opened.items()}
    best = min(measured, key=lambda name: measured[name])
    passing = [reason for reason in refusals if not isinstance(reason, ConfigError)]  # gone at the next start, maybe
    if passing:
        warnings.warn(f"runtime 'auto' takes '{best}', since others do not open now: {passing[0]}", OfframpWarning, 3)
    else:
        write_json(path, {"format": FORMAT, "version": VERSION, "runtime": best, "ms": measured})
    return best, opened[best]


@torch.inference_mode()
def time_one(runtime: AnyRuntime, subject: Subject, clock: Callable[[], float]) -> float:
    """Milliseconds of one image up to the last exit, the median of some runs."""
    config = subject.net.config
    image = torch.zeros(1, config.image_channels, config.image_size, config.image_size, device=subject.device)
    took: list[float] = []
    end = None
    while end is None or (clock() < end and len(took) < _RUNS):
        began = clock()
        state = runtime.start(image)
        for k in range(runtime.num_exits):
            state, logits = runtime.step(k, state)
        logits.cpu()
        if end is None:  # the first run allocates
            end = clock() + _SECONDS
        else:
            took.append((clock() - began) * 1e3)
    return median(took) if took else (clock() - began) * 1e3


def _opened(name: str, subject: Subject) -> AnyRuntime | OfframpError:
    """The runtime, or why it turns out that it cannot run this network here: ``auto`` then takes another."""
    try:
        return open_runtime(name, subject)
    except OfframpError as error:
        return error


def _possible(name: str, subject: Subject) -> bool:
    spec = runtimes()[name]
    if subject.precision == "int8" and subject.int8_graph is None:
        return False
    return subject.precision in spec.precisions and spec.why_not(subject) is None


def _key(subject: Subject, able: list[str]) -> str:
    config = subject.net.config
    return key_of(
        {
            "net": config.to_json() | {"family": config.family},
            "weights": subject.digest,
            "precision": subject.precision,
            "threads": subject.threads,
            "machine": fingerprint(subject.device),
            "runtimes": sorted(able),
            "versions": [version_of(package) for package in ("offramp", "onnxruntime", "openvino")],
        }
    )


def _remembered(path: Path) -> str | None:
    try:
        name = read_json(path, FORMAT, VERSION).get("runtime")
    except ArtifactError:  # never measured, or nothing that can be read: it is measured anew
        return None
    return name if isinstance(name, str) else None
