"""The model folder: model.json, weights.safetensors and, once calibrated, calibration.safetensors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as format_tensors
from torch import nn

from offramp.catalog import entries, suggest
from offramp.classifier.classifier import Classifier
from offramp.classifier.identity import Storage, stored_form, weights_digest
from offramp.data.preprocess import Preprocessing
from offramp.decide.calibration import Calibration
from offramp.errors import ArtifactError, ConfigError, reason
from offramp.nets.attached import OWN, AttachedConfig, attached_to
from offramp.nets.base import MultiExitNet, NetConfig
from offramp.nets.ensemble import EnsembleConfig
from offramp_runtime.files import read_json, write_atomic, write_json
from offramp_runtime.precision import Precision

FORMAT, VERSION = "offramp-model", 1
MODEL, WEIGHTS, CALIBRATION, INT8 = "model.json", "weights.safetensors", "calibration.safetensors", "int8.onnx"


def calibration_name(precision: Precision) -> str:
    """The file in a model folder that holds the calibration of a precision."""
    return CALIBRATION if precision == "fp32" else f"calibration-{precision}.safetensors"


def check_free(folder: Path) -> None:
    """Refuse to write where a model is.

    Raises:
        ArtifactError: one is.
    """
    if (folder / MODEL).exists():
        raise ArtifactError(f"{folder}: holds a model already; choose another --out")


def save(classifier: Classifier, folder: Path) -> None:
    """Write a model folder; ``model.json``, which makes it one, comes last.

    Raises:
        ConfigError: an ensemble with a module of one's own, which could not be read again.
    """
    _check_readable(classifier.net.config)
    stored = stored_form(classifier.net.state_dict(), classifier.storage)
    weights = format_tensors(stored)
    write_atomic(folder / WEIGHTS, lambda file: file.write(weights))
    for precision in get_args(Precision):
        calibration = classifier.calibrations.get(precision)
        if calibration is None:
            (folder / calibration_name(precision)).unlink(missing_ok=True)
        else:
            calibration.save(folder / calibration_name(precision))
    _save_int8(classifier.running.int8_graph, folder / INT8)
    config = classifier.net.config
    write_json(
        folder / MODEL,
        {
            "format": FORMAT,
            "version": VERSION,
            "family": config.family,
            "net": config.to_json(),
            "classes": list(classifier.classes),
            "preprocessing": classifier.preprocessing.to_json() if classifier.preprocessing else None,
            "storage": classifier.storage,
            "weights_sha256": weights_digest(stored),
            "about": classifier.about,
        },
    )


@torch.inference_mode(False)
def read(folder: Path, calibrated: bool = True, backbone: nn.Module | None = None) -> Classifier:
    """What :func:`save` wrote, on the CPU.

    Args:
        folder: the model folder.
        calibrated: whether to read the calibration too.
        backbone: see :func:`offramp.load`.

    Raises:
        ArtifactError: missing, damaged, foreign or from a newer release.
        ConfigError: the backbone is none for this model.
    """
    about = read_json(folder / MODEL, FORMAT, VERSION)
    with _meaningful(folder):
        config = _config(folder, about)
    if backbone is not None:
        net = attached_to(backbone, config)
    else:
        with _meaningful(folder):
            net = config.build()
    with _meaningful(folder):
        net.load_state_dict(_weights(folder, about["weights_sha256"]))
        if about["storage"] not in get_args(Storage):
            raise ValueError(f"storage {about['storage']!r}")
        preprocessing = Preprocessing.from_json(about["preprocessing"]) if about["preprocessing"] else None
        classifier = Classifier(
            fast(net), tuple(about["classes"]), preprocessing, storage=about["storage"], about=dict(about["about"])
        )
    _add_rest(classifier, folder, calibrated)
    return classifier


@contextmanager
def _meaningful(folder: Path) -> Iterator[None]:
    """Errors inside the block are due to what the folder says."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ArtifactError(
            f"{folder / MODEL}: the model is incomplete or damaged ({reason(error)}); get it anew"
        ) from None
    except ConfigError as error:
        raise ArtifactError(f"{folder / MODEL}: describes an impossible model: {error}") from None


def _add_rest(classifier: Classifier, folder: Path, calibrated: bool) -> None:
    if (folder / INT8).is_file():
        classifier.running.int8_graph = folder / INT8
    for precision in get_args(Precision):
        path = folder / calibration_name(precision)
        if calibrated and path.exists():
            classifier.calibrations.keep(precision, Calibration.load(path))


def _check_readable(config: NetConfig) -> None:
    members = config.members if isinstance(config, EnsembleConfig) else ()
    if any(isinstance(member, AttachedConfig) and member.backbone == OWN for member in members):
        raise ConfigError(
            "a member of this ensemble is a module of one's own, which no file can build: save its members, and make the "
            "ensemble anew from offramp.load(PATH, backbone=MODULE)"
        )


def _save_int8(graph: Path | None, path: Path) -> None:
    if graph is None:
        path.unlink(missing_ok=True)
    elif graph != path:
        data = graph.read_bytes()
        write_atomic(path, lambda file: file.write(data))


def _config(folder: Path, about: dict[str, Any]) -> NetConfig:
    families = entries("nets", "CONFIG")
    if about["family"] not in families:
        raise ArtifactError(
            f"{folder}: network family '{about['family']}' is unknown; {suggest(about['family'], families)}"
        )
    config: NetConfig = families[about["family"]].from_json(about["net"])
    return config


def _weights(folder: Path, digest: str) -> dict[str, torch.Tensor]:
    path = folder / WEIGHTS
    try:
        stored = parse_tensors(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); get the model anew") from None
    found = weights_digest(stored)
    if found != digest:
        raise ArtifactError(
            f"{path}: weights {found[:8]} are not the model's ({digest[:8]}); the file is damaged, get it anew"
        )
    return {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in stored.items()}


def fast(net: MultiExitNet) -> MultiExitNet:
    """Channels last, the layout images are decoded to; convolutions run in it without reordering."""
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
