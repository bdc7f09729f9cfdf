"""What every stage takes by batch size, and what leaving early then costs. Arithmetic only; nothing is measured here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from offramp_runtime.costs import Costs
from offramp_runtime.errors import ArtifactError, ConfigError
from offramp_runtime.files import read_json, write_json

VERSION = 1
Runs: TypeAlias = tuple[tuple[tuple[float, ...], ...], ...]
"""By stage or border, then by batch size: what each run took, for the whole batch."""


@dataclass(frozen=True)
class Setting:
    """What measured figures belong to."""

    machine: str
    """Fingerprint: hardware, threads, versions."""
    runtime: str
    precision: str
    model: str
    """Identity of the weights, precision, answer rule and preprocessing."""

    def check(self, other: "Setting", path: Path) -> None:
        """Refuse figures of another setting.

        Raises:
            ArtifactError: names all that differs.
        """
        differ = [
            f"{field.name} {getattr(other, field.name)[:12]} instead of {getattr(self, field.name)[:12]}"
            for field in fields(self)
            if getattr(other, field.name) != getattr(self, field.name)
        ]
        if differ:
            raise ArtifactError(f"{path}: measured with {', '.join(differ)}; measure it again here")


@dataclass(frozen=True)
class StageTable:
    """Repeated measurements of every stage and border over a grid of batch sizes.

    A border k lies behind stage k; there the rest of a batch is taken out, and batches that wait are joined.
    """

    unit: ClassVar[Literal["ms", "J"]]
    kind: ClassVar[str]
    """``format`` of its file."""

    setting: Setting
    sizes: tuple[int, ...]
    """Batch sizes, rising."""
    stages: Runs
    """(K, sizes, runs)."""
    takes: Runs
    """Taking that many rows at each border, (K - 1, sizes, runs)."""
    joins: Runs
    """Joining that many rows at each border, (K - 1, sizes, runs)."""
    note: str = ""
    """What was not measured, and why."""

    def __post_init__(self) -> None:
        grids = (self.stages, self.takes, self.joins)
        borders = len(self.stages) - 1
        if not self.sizes or list(self.sizes) != sorted({size for size in self.sizes if size > 0}):
            raise ConfigError(f"batch sizes {self.sizes}: give rising positive numbers, at least one")
        if borders < 0 or [len(grid) for grid in grids[1:]] != [borders, borders]:
            raise ConfigError(
                f"{len(self.stages)} stages, {len(self.takes)} takes and {len(self.joins)} joins do not fit"
            )
        cells = [runs for grid in grids for stage in grid for runs in stage]
        if any(len(row) != len(self.sizes) for grid in grids for row in grid) or not all(cells):
            raise ConfigError("a table wants at least one run for every stage, border and batch size")
        if not all(0 < run < np.inf for runs in cells for run in runs):
            raise ConfigError("a table wants positive finite numbers only")

    @property
    def num_exits(self) -> int:
        """K."""
        return len(self.stages)

    def stage(self, k: int, count: float, q: float = 0.5) -> float:
        """What stage k stays below in a share ``q`` of its runs, for a batch of ``count`` images.

        Linear between the sizes that were measured and in proportion above them. A fraction of an image is the chance
        of there being one.
        """
        return self._read(self._curves(q)[0][k], count)

    def take(self, k: int, count: float, q: float = 0.5) -> float:
        """The same for taking ``count`` rows out of a batch at border k."""
        return self._read(self._curves(q)[1][k], count)

    def join(self, k: int, count: float, q: float = 0.5) -> float:
        """The same for joining batches to one of ``count`` rows at border k."""
        return self._read(self._curves(q)[2][k], count)

    def pays(self, k: int, count: int, size: int) -> bool:
        """Whether to take ``count`` rows out of a batch of ``size`` before stage k, were nobody else to leave later."""
        later = range(k, self.num_exits)
        saved = sum(self.stage(j, size) - self.stage(j, count) for j in later)
        return saved > self.take(k - 1, count)

    def costs(self, shares: Sequence[float], images: int, batch: int, queued: bool = False) -> Costs:
        """Mean cost of one of ``images`` up to each exit, when these shares (K,) leave at the exits.

        ``shares @ at_exit`` is what is spent on one image.

        Args:
            shares: adding up to 1.
            images: given at once.
            batch: images a stage runs with at most.
            queued: whether later stages run full batches too, as stage queues lets
                them, or every batch shrinks by itself.
        """
        inside = np.maximum(1 - np.concatenate([[0.0], np.cumsum(shares)[:-1]]), 0)
        total, at_exit = 0.0, []
        for k, share in enumerate(inside):
            here = float(share) if share > 1e-9 else 0.0

            def spent(price: Callable[[int, float], float], border: int, share: float = here) -> float:
                return sum(number * price(border, count) for number, count in _batches(images, batch, share, queued))

            stage = spent(self.stage, k)
            if k > 0 and share < inside[k - 1]:
                stage += spent(self.take, k - 1)
            if k > 0 and queued:
                stage += spent(self.join, k - 1)
            total += stage / (images * here) if here else self.stage(k, 1)
            at_exit.append(total)
        how = "through stage queues" if queued else "each shrinking"
        return Costs(tuple(at_exit), self.unit, note=f"measured; {images} images in batches of up to {batch}, {how}")

    def expected(self, shares: Sequence[float], images: int, batch: int, queued: bool = False) -> float:
        """What one of ``images`` given at once costs in the mean when these shares (K,) leave at the exits."""
        return float(np.dot(shares, self.costs(shares, images, batch, queued).at_exit))

    def pricing(self, images: int, batch: int, queued: bool = False) -> Callable[[tuple[float, ...]], Costs]:
        """:meth:`costs` for any shares, to solve a budget with."""
        return lambda shares: self.costs(shares, images, batch, queued)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"unit": self.unit, **asdict(self)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            KeyError, TypeError, ValueError, ConfigError: something is missing or makes no sense.
        """
        stages, takes, joins = (_runs(stored[name]) for name in ("stages", "takes", "joins"))
        found = Setting(**{field.name: str(stored["setting"][field.name]) for field in fields(Setting)})
        return cls(found, tuple(map(int, stored["sizes"])), stages, takes, joins, str(stored["note"]))

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_json(path, {"format": self.kind, "version": VERSION, **self.to_json()})

    @classmethod
    def load(cls, path: Path, setting: Setting) -> Self:
        """What :meth:`save` wrote, if it was measured in this setting.

        Raises:
            ArtifactError: missing, damaged, from a newer release, or measured on another machine, with another runtime or
                precision, or for another model.
        """
        stored: dict[str, Any] = read_json(path, cls.kind, VERSION)
        try:
            table = cls.from_json(stored)
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise ArtifactError(f"{path}: the table is incomplete or damaged ({error!r}); measure it again") from None
        setting.check(table.setting, path)
        return table

    def _read(self, curve: NDArray[np.float64], count: float) -> float:
        if count < 1:
            return max(count, 0.0) * float(curve[0])
        if count > self.sizes[-1]:
            return float(curve[-1]) * count / self.sizes[-1]
        return float(np.interp(count, self.sizes, curve))

    def _curves(self, q: float) -> list[list[NDArray[np.float64]]]:
        """Quantiles of stages, takes and joins, by k, each (sizes,)."""
        if q not in self._known:
            grids = (self.stages, self.takes, self.joins)
            self._known[q] = [[np.array([np.quantile(runs, q) for runs in one]) for one in grid] for grid in grids]
        return self._known[q]

    @cached_property
    def _known(self) -> dict[float, list[list[NDArray[np.float64]]]]:
        return {}


def _batches(images: int, batch: int, share: float, queued: bool) -> list[tuple[int, float]]:
    """How many batches of how many images a stage runs, where this share is left."""
    if queued:
        count = images * share
        full = int(count / batch + 1e-9)
        return [(full, batch), (1, max(count - full * batch, 0.0))]
    return [(images // batch, batch * share), (1, images % batch * share)]


def _runs(stored: Any) -> Runs:
    return tuple(tuple(tuple(map(float, runs)) for runs in stage) for stage in stored)
