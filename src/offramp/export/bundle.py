"""Writing a bundle: graphs in one format, and a manifest with all that is needed to answer."""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from offramp import __version__
from offramp.catalog import entries, lookup
from offramp.classifier import Classifier
from offramp.engine.opening import Subject
from offramp.errors import ArtifactError, ConfigError, MissingExtraError
from offramp.measure.macs import direct_macs
from offramp_runtime.bundle import MANIFEST, Manifest, read_bundle, write_manifest
from offramp_runtime.checks import check_threads
from offramp_runtime.latency_table import LatencyTable
from offramp_runtime.loading import KINDS, load
from offramp_runtime.machine import version_of
from offramp_runtime.model import MEASURING_S
from offramp_runtime.precision import Precision, check_precision

GraphFacts = Mapping[str, Any]
"""Of a stage: ``stage`` and ``direct``, names of files, and ``reads`` and ``gives``, lists of tensors."""


@dataclass(frozen=True)
class Format:
    """One kind of bundle; entries of ``FORMATS`` in the modules of this package."""

    precisions: tuple[Precision, ...]
    write: Callable[[Subject, Path], Sequence[GraphFacts]]
    """Fills a folder with graphs and says what they are."""
    packages: tuple[str, ...]
    """Whose versions the manifest names."""


def export(
    classifier: Classifier,
    kind: str,
    out: Path,
    *,
    precision: Precision = "fp32",
    threads: int | None = None,
    measuring_s: float = MEASURING_S,
) -> Manifest:
    """Write a bundle; the folder appears whole or not at all.

    Args:
        classifier: its calibration of that precision goes along.
        kind: ``onnx``, ``openvino``, ``torch-export`` or ``executorch``.
        out: a folder that does not exist, or holds an earlier bundle, which is replaced.
        precision: of the graphs.
        threads: that the bundle is measured with; by default as many as it will use.
        measuring_s: seconds to measure its latency table in, where this machine can run it; 0 leaves the table out.

    Raises:
        ConfigError: no such format, or it does not have the precision.
        ArtifactError: ``out`` holds something else, or int8 of a model that has not been quantised.
        DataError: a model without preprocessing.
        MissingExtraError: a package that writes the format is not installed.
    """
    check_threads(threads)
    if threads is not None and (kind not in KINDS or not measuring_s):
        raise ConfigError(
            f"threads={threads}: only for a bundle that is measured, of {' or '.join(KINDS)}; leave it out"
        )
    chosen: Format = lookup("export format", kind, "export", "FORMATS")
    check_precision(precision)
    if precision not in chosen.precisions:
        formats: dict[str, Format] = entries("export", "FORMATS")
        others = ", ".join(f"'{name}'" for name, one in sorted(formats.items()) if precision in one.precisions)
        raise ConfigError(
            f"format '{kind}' has no {precision}; take {others}, or one of {', '.join(chosen.precisions)}"
        )
    check_place(out)
    preprocessing = classifier.intake.preprocessing
    subject = classifier.running.subject(precision)
    identity = classifier.identity_at(precision)
    unfinished = _new_folder(out)
    try:
        graphs = chosen.write(subject, unfinished)
        manifest = Manifest(
            kind,
            precision,
            identity,
            classifier.classes,
            preprocessing,
            classifier.costs,
            direct_macs(classifier.net).at_exit,
            tuple(graphs),
            None,
            {"offramp": __version__} | {package: version_of(package) for package in chosen.packages},
        )
        calibration = classifier.calibrations.get(precision)
        write_manifest(unfinished, manifest, calibration)
        if measuring_s and kind in KINDS:
            manifest = replace(manifest, latency=_latencies(unfinished, threads, measuring_s))
            write_manifest(unfinished, manifest, calibration)
        unfinished.chmod(0o755)
        check_place(out)  # it may have been long ago
        _replace(out, unfinished)
    except OSError as error:
        raise _unwritable(out, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return manifest


def _latencies(bundle: Path, threads: int | None, seconds: float) -> LatencyTable | None:
    """What its stages take here; None where it cannot run, since bundles are made for other machines too."""
    try:
        model = load(bundle, threads=threads)
    except (ConfigError, MissingExtraError):
        return None
    return model.latencies(seconds)


def _new_folder(out: Path) -> Path:
    """An empty one beside ``out``, on the same disk."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise _unwritable(out, error) from error


def _replace(out: Path, new: Path) -> None:
    """Put ``new`` where ``out`` is or may be, and only then remove what was there."""
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except OSError:
            if any(old.iterdir()):
                old.rename(out)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _unwritable(out: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"{out}: cannot be written ({error.strerror or error}); check folder and disk")


def check_place(out: Path) -> None:
    """Refuse to replace anything but a bundle.

    Raises:
        ArtifactError: something else is there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        known = {MANIFEST, *read_bundle(out).files}
    except ArtifactError:
        raise ArtifactError(f"{out}: exists and is no whole bundle; choose another --out, or remove it first") from None
    strange = [name for path in out.rglob("*") if path.is_file() and (name := str(path.relative_to(out))) not in known]
    if strange:
        raise ArtifactError(
            f"{out}: holds {strange[0]}, which is no part of the bundle there; choose another --out, or move it away"
        )


def described(
    tensors: Mapping[str, Sequence[int]], samples: int | None = None, dtypes: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Tensors between stages, for the manifest.

    Args:
        tensors: by name the shape without the first axis, which counts samples.
        samples: how many there always are; None where their number is open.
        dtypes: by name, where it is not float32.
    """
    kinds = dtypes or {}
    first = "N" if samples is None else samples
    return [
        {
            "name": name,
            "shape": [first, *shape],
            "layout": "NC" if len(shape) == 1 else "NCHW",
            "dtype": kinds.get(name, "float32"),
        }
        for name, shape in tensors.items()
    ]
