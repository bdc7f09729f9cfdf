"""Exported bundles for tests: what to compare them with, and ways to break them."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from offramp_runtime.bundle import MANIFEST
from offramp_runtime.stages import Stages
from tiny import PREPROCESSING, Clock, images, make_net


def network_input(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Normalised images (N, C, H, W)."""
    return PREPROCESSING.network_input(images(count, seed))


@torch.no_grad()
def expected(given: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (K, N, C) of the network that was exported."""
    logits: NDArray[np.float32] = make_net()(torch.from_numpy(given)).numpy()
    return logits


def assert_close(found: Any, wanted: NDArray[np.float32]) -> None:
    """Within 1e-4 of the largest."""
    assert np.shape(found) == wanted.shape
    assert np.abs(np.asarray(found) - wanted).max() <= 1e-4 * np.abs(wanted).max()


def run_all(stages: Stages[Any], given: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (K, N, C) of the stages one after the other."""
    state = stages.start(given)
    logits = []
    for k in range(stages.num_exits):
        state, of_exit = stages.step(k, state)
        logits.append(of_exit)
    return np.stack(logits)


def check_joining(stages: Stages[Any]) -> None:
    """Joined states go on as one batch would."""
    given = network_input(9)
    parts = [stages.step(0, stages.start(part))[0] for part in (given[:4], given[4:5], given[5:])]
    state, logits = stages.step(1, stages.join(parts))
    assert_close(logits, expected(given)[1])
    assert_close(stages.step(2, state)[1], expected(given)[2])


def check_many_threads(stages: Stages[Any]) -> None:
    """Threads that run batches of different sizes at once do not disturb one another."""
    batches = {seed: network_input(1 + seed % 5, seed) for seed in range(12)}
    wanted = {seed: expected(given) for seed, given in batches.items()}
    together = threading.Barrier(4)

    def work(worker: int) -> None:
        together.wait()
        for turn in range(24):
            seed = (5 * turn + worker) % 12
            assert_close(run_all(stages, batches[seed]), wanted[seed])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def check_stepping_one_state_at_once(stages: Stages[Any]) -> None:
    """Threads that step the same state get the same."""
    given = network_input(4)
    state, _ = stages.step(0, stages.start(given))
    with ThreadPoolExecutor(4) as threads:
        for logits in threads.map(lambda _: stages.step(2, stages.step(1, state)[0])[1], range(40)):
            assert_close(logits, expected(given)[2])


def copy_of(bundle: Path, folder: Path) -> Path:
    """To be broken."""
    return shutil.copytree(bundle, folder / "copy")


def edit(bundle: Path, change: Callable[[dict[str, Any]], object], *, seal: bool = True) -> None:
    """Change the manifest, and its digest with it unless told not to."""
    path = bundle / MANIFEST
    stored = json.loads(path.read_text())
    digest = stored.pop("digest")
    change(stored)
    if seal:
        digest = hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**stored, "digest": digest}))


def as_kind(bundle: Path, folder: Path, kind: str) -> Path:
    """The same graphs as a bundle of another kind."""
    other = copy_of(bundle, folder)
    edit(other, lambda stored: stored.update(kind=kind))
    return other


def run_without(modules: Sequence[str], code: str, *arguments: object) -> list[str]:
    """Lines that a program prints in a Python of its own, in which none of these modules can be imported."""
    block = f"""
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {tuple(modules)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Block())
"""
    command = [sys.executable, "-c", block + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


class ClockedStages:
    """Stages of which stage k takes ``ms[k]`` on a clock that nothing else moves."""

    def __init__(self, stages: Stages[Any], ms: Sequence[float]) -> None:
        self.stages, self.ms, self.clock = stages, ms, Clock()
        self.ran: list[int] = []
        self.start, self.take, self.join, self.direct = stages.start, stages.take, stages.join, stages.direct

    @property
    def num_exits(self) -> int:
        return self.stages.num_exits

    def step(self, k: int, state: Any) -> tuple[Any, NDArray[np.float32]]:
        self.ran.append(k)
        self.clock.pass_ms(self.ms[k])
        return self.stages.step(k, state)
