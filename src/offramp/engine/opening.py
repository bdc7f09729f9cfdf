"""Ways to run a network, by name: what each can do, and opening one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from offramp.catalog import entries, lookup
from offramp.errors import ArtifactError, ConfigError, OfframpError
from offramp.nets.base import MultiExitNet
from offramp.runtimes import DirectRuntime
from offramp_runtime.precision import Precision

AnyRuntime: TypeAlias = DirectRuntime[Any]
"""A runtime whose state nobody looks into."""
AUTO = "auto"


@dataclass(frozen=True)
class Subject:
    """What shall be run, and how."""

    net: MultiExitNet
    digest: str
    """Of the stored weights, and of the quantised graph if that runs; with the configuration it tells networks apart."""
    precision: Precision
    threads: int
    """That compute one call."""
    device: torch.device
    int8_graph: Path | None = None
    """The quantised graph of all exits, where the model has one."""


@dataclass(frozen=True)
class RuntimeSpec:
    """One way to run networks; entries of ``RUNTIMES`` in the modules of this package."""

    precisions: tuple[Precision, ...]
    open: Callable[[Subject], AnyRuntime]
    why_not: Callable[[Subject], OfframpError | None]
    """What :func:`open_runtime` raises where it cannot run; None where it can. Quick, and imports nothing heavy."""
    worth_trying: bool = True
    """Whether ``auto`` considers it: not what takes minutes to prepare."""


def runtimes() -> dict[str, RuntimeSpec]:
    """All there are, by name."""
    return entries("engine", "RUNTIMES")


def open_runtime(name: str, subject: Subject) -> AnyRuntime:
    """The runtime called ``name``, and never another.

    Raises:
        ConfigError: no such runtime, or it cannot do this precision or run on this device or CPU.
        MissingExtraError: a package it needs is not installed.
        ArtifactError: int8 of a model that has not been quantised.
    """
    spec: RuntimeSpec = lookup("runtime", name, "engine", "RUNTIMES")
    check_possible(name, spec, subject)
    return spec.open(subject)


def check_possible(name: str, spec: RuntimeSpec, subject: Subject) -> None:
    """Refuse what cannot be."""
    if subject.precision not in spec.precisions:
        others = ", ".join(f"'{n}'" for n, s in sorted(runtimes().items()) if subject.precision in s.precisions)
        raise ConfigError(f"runtime '{name}' has no {subject.precision}; take {others or 'another precision'}")
    if subject.precision == "int8" and subject.int8_graph is None:
        raise ArtifactError(
            "this model has not been quantised; do it once with: offramp calibrate MODEL --precision int8 --data NAME"
        )
    reason = spec.why_not(subject)
    if reason is not None:
        raise reason
