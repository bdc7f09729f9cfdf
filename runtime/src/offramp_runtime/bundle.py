"""A bundle: the folder an exported network lives in."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offramp_runtime.calibration import Calibration
from offramp_runtime.costs import Costs
from offramp_runtime.errors import ArtifactError, ConfigError
from offramp_runtime.files import read_json, write_json
from offramp_runtime.latency_table import LatencyTable
from offramp_runtime.precision import Precision, check_precision
from offramp_runtime.preprocess import Preprocessing

FORMAT, VERSION = "offramp-bundle", 1
MANIFEST, CALIBRATION = "manifest.json", "calibration.npz"
_OPTIONAL = ("direct", "weights")
"""Files that the facts of a stage may name beside its graph."""


@dataclass(frozen=True, eq=False)
class Manifest:
    """All that is known of an exported network beside its graphs."""

    kind: str
    """What the graphs are for: onnx, openvino, torch-export or executorch."""
    precision: Precision
    identity: str
    """Of weights, precision, answer rule and preprocessing."""
    classes: tuple[str, ...]
    """Class names, (C,)."""
    preprocessing: Preprocessing
    costs: Costs
    """MACs up to each exit, (K,)."""
    direct_macs: tuple[float, ...]
    """MACs straight to each exit, (K,)."""
    graphs: tuple[Mapping[str, Any], ...]
    """Per stage its file, the file straight to its exit, and what it reads and gives: names, shapes, layout."""
    latency: LatencyTable | None
    """What the stages take where it was exported; of use on such a machine only."""
    made_with: Mapping[str, str]
    """Versions."""

    @property
    def num_exits(self) -> int:
        """K."""
        return len(self.graphs)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": self.kind,
            "precision": self.precision,
            "identity": self.identity,
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.to_json(),
            "macs": {"cumulative": list(self.costs.at_exit), "direct": list(self.direct_macs)},
            "graphs": [dict(graph) for graph in self.graphs],
            "latency": None if self.latency is None else self.latency.to_json(),
            "made_with": dict(self.made_with),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Manifest":
        """The inverse of :meth:`to_json`."""
        return cls(
            kind=str(stored["kind"]),
            precision=check_precision(str(stored["precision"])),
            identity=str(stored["identity"]),
            classes=tuple(map(str, stored["classes"])),
            preprocessing=Preprocessing.from_json(stored["preprocessing"]),
            costs=Costs(tuple(map(float, stored["macs"]["cumulative"])), "MAC"),
            direct_macs=tuple(map(float, stored["macs"]["direct"])),
            graphs=tuple(dict(graph) for graph in stored["graphs"]),
            latency=None if stored["latency"] is None else LatencyTable.from_json(stored["latency"]),
            made_with=dict(stored["made_with"]),
        )


@dataclass(frozen=True, eq=False)
class Bundle:
    """An opened folder: everything in it was written together, and nothing has changed since."""

    folder: Path
    manifest: Manifest
    calibration: Calibration | None
    files: frozenset[str]
    """Beside the manifest."""
    digest: str
    """Of the manifest, and so of all files."""


def write_manifest(folder: Path, manifest: Manifest, calibration: Calibration | None) -> None:
    """Finish a bundle whose graphs lie in ``folder``; the manifest, which makes it one, comes last."""
    about = None
    if calibration is not None:
        np.savez(folder / CALIBRATION, **calibration.arrays())  # type: ignore[arg-type]
        about = {"source": calibration.source, "seed": calibration.seed}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    digests = {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    whole = {"format": FORMAT, "version": VERSION, **manifest.to_json(), "calibration": about, "files": digests}
    write_json(folder / MANIFEST, {**whole, "digest": _digest(whole)})


def read_bundle(folder: Path) -> Bundle:
    """The bundle in ``folder``, checked.

    Raises:
        ArtifactError: there is none, it is damaged, mixed with another, or written by a newer release.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder}: not a bundle (no {MANIFEST} in it); name the folder `offramp export` wrote")
    stored = read_json(path, FORMAT, VERSION)
    try:
        digest = str(stored.pop("digest"))
        if digest != _digest(stored):
            raise ValueError("a value in it has changed")
        manifest = Manifest.from_json(stored)
        digests = {str(name): str(digest) for name, digest in stored["files"].items()}
        wanted = {str(graph["stage"]) for graph in manifest.graphs}
        wanted |= {str(graph[part]) for graph in manifest.graphs for part in _OPTIONAL if graph.get(part)}
        if stored["calibration"] is not None:
            wanted.add(CALIBRATION)
        if not manifest.graphs or len(manifest.costs.at_exit) != manifest.num_exits or not wanted <= set(digests):
            raise ValueError("stages, costs and files do not fit together")
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise ArtifactError(
            f"{path}: the manifest is incomplete or damaged ({error}); export the model again"
        ) from None
    _check_files(folder, digests)
    calibration = None if stored["calibration"] is None else _read_calibration(folder, stored, manifest.identity)
    return Bundle(folder, manifest, calibration, frozenset(digests), digest)


def _check_files(folder: Path, digests: Mapping[str, str]) -> None:
    for name, digest in digests.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ArtifactError(f"{folder / MANIFEST}: names {name!r}, a file outside the bundle; do not use it")
        if not path.is_file():
            raise ArtifactError(f"{path}: missing; the bundle is incomplete, copy or export it again")
        found = _sha256(path)
        if found != digest:
            raise ArtifactError(
                f"{path}: has digest {found[:8]}, its manifest says {digest[:8]}; the bundle is damaged or mixed from two, "
                "copy or export it again"
            )


def _read_calibration(folder: Path, stored: Mapping[str, Any], identity: str) -> Calibration:
    try:
        with np.load(folder / CALIBRATION, allow_pickle=False) as arrays:
            parts = {name: arrays[name] for name in ("confidence", "correct", "indices")}
        about = stored["calibration"]
        return Calibration(**parts, source=str(about["source"]), seed=int(about["seed"]), identity=identity)
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"{folder / CALIBRATION}: the calibration is damaged ({error}); export the model again"
        ) from None


def _digest(whole: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(whole), sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
