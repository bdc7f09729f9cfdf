"""Training processes that are stopped, starved and killed, and what their run folders must look like in the end."""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image

import tiny
import tiny_train
from offramp.classifier import load
from offramp.classifier.run_folder import CHECKPOINTS, IN_RUN, METRICS, MODEL
from offramp.train.checkpoint import Checkpoints

ARGUMENTS = ("train", "halves", "--set", "epochs=3", "--set", "ema_decay=0.5", "--device", "cpu")
"""64 images in batches of 16, so 12 steps, and checkpoints of the steps 4, 8 and 12."""
_PRELOADED = (
    "pytest",
    "offramp.cli.training",
    "offramp.classifier",
    "tensorboard.summary.writer.record_writer",
    "torch._dynamo",
    "pydantic.fields",
)
_PATIENCE_S = 60


def _context() -> ForkServerContext:
    """Processes start from one that has imported PyTorch, which takes longer than such a training."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    return context


class Training:
    """A running ``offramp train``.

    Args:
        out: run folder.
        more: further arguments; ``data`` and settings of :data:`ARGUMENTS` may be among them.
        moment: where it waits, see :mod:`tiny_train`.
        threads: that compute, as OMP_NUM_THREADS sets them.
    """

    def __init__(self, out: Path, *more: object, moment: str = "", threads: int = 1) -> None:
        self.out = out
        beside = out.with_name(f"{out.name}.{time.monotonic_ns()}")
        self.log, self.mark = beside.with_suffix(".log"), beside.with_suffix(".mark")
        arguments = [*ARGUMENTS, "--out", str(out), *map(str, more)]
        self._process = _context().Process(
            target=tiny_train.run, args=(arguments, self.log, moment, self.mark, threads)
        )
        self._process.start()

    @classmethod
    def stopped_at(cls, moment: str, out: Path, *more: object) -> Self:
        """One that waits at ``moment``, which has come."""
        training = cls(out, *more, moment=moment)
        until(lambda: training.mark.exists() or not training.running)
        assert training.mark.exists(), training.said
        return training

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.exitcode is None

    @property
    def said(self) -> str:
        """On both streams so far."""
        return self.log.read_text() if self.log.exists() else ""

    @property
    def workers(self) -> list[int]:
        """Its own processes."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def send(self, number: int, *, group: bool = False) -> None:
        """A signal to the process, or to all of its group as a terminal does."""
        (os.killpg if group else os.kill)(self.pid, number)

    def kill(self) -> None:
        """As a power switch: at once, and it alone."""
        self.send(signal.SIGKILL)
        assert self.end() == -signal.SIGKILL

    def go_on(self) -> None:
        """From where it waits."""
        self.mark.unlink()

    def end(self) -> int:
        """Wait for it; returns the exit code, negative for a signal."""
        self._process.join(_PATIENCE_S)
        code = self._process.exitcode
        assert code is not None, f"still running: {self.said}"
        assert "Traceback" not in self.said, self.said
        return code

    def complaint(self, code: int = 2) -> str:
        """Wait for an end with this exit code; returns the one line that says why."""
        assert self.end() == code, self.said
        lines = [line for line in self.said.splitlines() if not line.startswith(("{", "note: "))]
        assert len(lines) == 1, self.said
        assert lines[0].startswith("offramp: ")
        return lines[0].removeprefix("offramp: ")

    def notes(self) -> list[str]:
        """Wait for success; returns what was remarked, but for that so few images are held out."""
        assert self.end() == 0, self.said
        notes = [line.removeprefix("note: ") for line in self.said.splitlines() if line.startswith("note: ")]
        return [note for note in notes if "images held out are few" not in note]


def until(holds: Callable[[], bool]) -> None:
    """Wait for something to happen in another process."""
    ends = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.005)


def resume(out: Path, *more: object) -> list[str]:
    """Go on to the end; returns what was remarked."""
    return Training(out, *more, "--resume").notes()


def steps_saved(out: Path) -> list[int]:
    """Of the checkpoints there are, oldest first."""
    return [int(path.name[5:13]) for path in Checkpoints(out / CHECKPOINTS).files]


def unfinished(out: Path) -> list[str]:
    """What of files that were being written is left, by the first part of their names."""
    return [path.name.split(".")[1] for path in out.rglob("*.offramp-unfinished")]


def losses(out: Path) -> list[Any]:
    """Losses and accuracies of each epoch."""
    lines = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    return [(line["epoch"], line["step"], line["losses"], line["calibrate_top1"]) for line in lines]


def whole_run(out: Path) -> Path:
    """A training from its beginning to its end."""
    assert Training(out).notes() == []
    return out


def killed_run(out: Path) -> Path:
    """A training killed in its last epoch, with checkpoints of the two before it."""
    Training.stopped_at("step 10", out).kill()
    assert steps_saved(out) == [4, 8]
    return out


def check_same(out: Path, reference: Path) -> None:
    """Both runs are finished, nothing else lies in ``out``, and every bit of weights, average and optimiser is equal."""
    ours, theirs = (Checkpoints(run / CHECKPOINTS).load(_silence) for run in (out, reference))
    for part in ("step", "net", "average", "optimizer"):
        pairs = list(zip(_tensors(ours[part], part), _tensors(theirs[part], part), strict=True))
        assert pairs
        other = [name for (name, one), (_, two) in pairs if not torch.equal(one, two)]
        assert not other, f"{len(other)} of {len(pairs)} tensors differ, such as {other[0]}"
    for name in ("weights.safetensors", "calibration.safetensors"):
        assert (out / MODEL / name).read_bytes() == (reference / MODEL / name).read_bytes(), f"{name} differs"
    assert load(out).identity == load(reference).identity, "models differ"
    assert losses(out) == losses(reference), "metrics differ"
    found = {path.name for path in out.iterdir()}
    assert found == set(IN_RUN), f"the run folder holds {found}"
    kept = [path.name for folder in (CHECKPOINTS, MODEL) for path in (out / folder).iterdir()]
    assert len(kept) == 2 + 3, f"two checkpoints and three parts of a model, but also: {kept}"


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors and numbers in a nest of dictionaries and lists."""
    if isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(part, f"{name}.{key}")
    elif isinstance(value, torch.Tensor | int | float):
        yield name, torch.as_tensor(value)


def _silence(message: str) -> None:
    raise AssertionError(message)


def fresh(out: Path, log: Path, *more: object, moment: str = "", every_s: float | None = None) -> list[str]:
    """The command of the same training in an interpreter of its own; the file to watch is ``log`` with ``.mark``."""
    how = {"log": str(log), "moment": moment, "mark": str(log.with_suffix(".mark")), "every_s": every_s}
    program = str(Path(tiny_train.__file__))
    return [sys.executable, program, json.dumps(how), *ARGUMENTS, "--out", str(out), *map(str, more)]


def streaming(images: Path) -> list[object]:
    """More arguments, for images that are cropped one by one, which workers do: 80 of them, so 5 steps an epoch."""
    return ["--data", images, "--workers", 2, "--set", "crop_area=0.5,1", "--holdout", 16]


def write_images(root: Path) -> Path:
    """The images of the small world in a folder for each class."""
    split = tiny.read_halves(None, "train")
    for name in tiny.CLASSES:
        (root / name).mkdir(parents=True)
    for number, (pixels, label) in enumerate(zip(split.images, split.labels, strict=True)):
        Image.fromarray(pixels[..., 0]).save(root / tiny.CLASSES[label] / f"{number}.png")
    return root
