"""``offramp train`` in the small world of :mod:`tiny`, as a process of its own that waits at one chosen moment.

Moments: ``step N`` (before it, counted from 0), ``half NAME`` (half of a file whose name begins so is written) and
``after NAME`` (it is in place). What pauses touches the file ``mark`` and goes on when that is gone. With ``none`` it
never pauses, and ``mark`` gets a line before every step and one after the last.
"""

import ctypes
import functools
import io
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from torch import Tensor

import tiny
from offramp.classifier import Classifier, folder
from offramp.cli import training
from offramp.cli.main import main
from offramp.measure import machine
from offramp.nets.base import MultiExitNet
from offramp.train import checkpoint, feed
from offramp.train.run import Run
from offramp.train.trainer import Trainer
from offramp_runtime import files

Write = Callable[[BinaryIO], object]


def run(
    arguments: Sequence[str], log: Path, moment: str, mark: Path, threads: int = 1, every_s: float | None = None
) -> None:
    """Be ``offramp ARGUMENTS`` with its own process group, as a terminal's command has; both streams go to ``log``.

    Args:
        arguments: of the command.
        log: file that gets stdout and stderr.
        moment: where to wait; empty does not wait.
        mark: exists while it waits.
        threads: that compute.
        every_s: seconds between checkpoints inside an epoch, instead of the usual ten minutes.
    """
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # the usual one, however this process was started
    write_to(log)
    _obey_permissions()
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process started in the background ignores it
    patch = pytest.MonkeyPatch()
    tiny.install(patch)
    patch.setattr(machine, "_commit", lambda: "unknown")  # the checkout may change meanwhile, and that would be told
    patch.setattr(feed, "RESIDENT_BYTES", 0)  # images in files stay there, as where there are many
    if every_s is not None:
        patch.setattr(training, "Run", functools.partial(Run, checkpoint_every_s=every_s))
    kind, _, what = moment.partition(" ")
    if kind == "none":
        _count(patch, mark)
    elif kind == "step":
        _wait_before(patch, int(what), mark)
    elif kind:
        _wait_in_writes(patch, kind, what, mark)
    sys.exit(main(arguments))


def write_to(log: Path) -> None:
    """Send both streams to a file, and read nothing."""
    sys.stdout.flush()
    sys.stderr.flush()
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        handle = os.open(os.devnull if number == 0 else log, flags | os.O_CREAT | os.O_APPEND * (number > 0), 0o644)
        os.dup2(handle, number)
        os.close(handle)


def _obey_permissions() -> None:
    """Give up root's right to pass over them (CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH), where there is one."""
    system = ctypes.CDLL(None)
    header, rights = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert system.capget(header, rights) == 0
    rights[0] &= ~0b110
    assert system.capset(header, rights) == 0


def _wait(mark: Path) -> None:
    mark.touch()
    while mark.exists():
        time.sleep(0.002)


def _wait_before(patch: pytest.MonkeyPatch, step: int, mark: Path) -> None:
    advance = Trainer.advance

    def waiting(self: Trainer) -> Tensor:
        if self.step == step:
            _wait(mark)
        return advance(self)

    patch.setattr(Trainer, "advance", waiting)


def _count(patch: pytest.MonkeyPatch, mark: Path) -> None:
    advance, finish = Trainer.advance, Run._finish

    def counting(self: Trainer) -> Tensor:
        _note(mark, self.step)
        return advance(self)

    def noted(self: Run, net: MultiExitNet, seconds: float) -> Classifier:
        _note(mark, -1)
        return finish(self, net, seconds)

    patch.setattr(Trainer, "advance", counting)
    patch.setattr(Run, "_finish", noted)


def _note(mark: Path, step: int) -> None:
    with mark.open("a") as file:
        file.write(f"{step}\n")


def _wait_in_writes(patch: pytest.MonkeyPatch, kind: str, name: str, mark: Path) -> None:
    write_atomic = files.write_atomic

    def waiting(path: Path, write: Write) -> None:
        if not path.name.startswith(name):
            write_atomic(path, write)
        elif kind == "half":
            write_atomic(path, lambda file: _in_halves(file, write, mark))
        else:
            write_atomic(path, write)
            _wait(mark)

    for module in (files, checkpoint, folder):
        patch.setattr(module, "write_atomic", waiting)


def _in_halves(file: BinaryIO, write: Write, mark: Path) -> None:
    packed = io.BytesIO()
    write(packed)
    content = packed.getvalue()
    file.write(content[: len(content) // 2])
    file.flush()
    _wait(mark)
    file.write(content[len(content) // 2 :])


if __name__ == "__main__":
    how = json.loads(sys.argv[1])
    run(sys.argv[2:], Path(how["log"]), how["moment"], Path(how["mark"]), every_s=how["every_s"])
