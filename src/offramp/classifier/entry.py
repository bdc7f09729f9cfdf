"""The ways to get something to predict with: load, create, import, put together."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from offramp.catalog import lookup, suggest
from offramp.classifier import folder, run_folder
from offramp.classifier.classifier import Classifier
from offramp.classifier.identity import Storage
from offramp.data.preprocess import Preprocessing
from offramp.errors import ArtifactError, ConfigError
from offramp.nets.base import MultiExitNet, NetConfig
from offramp.nets.ensemble import Ensemble
from offramp.nets.msdnet.config import Spacing

SHIPPED = Path(__file__).parent.parent / "models"
"""Model folders inside the package."""


def shipped_models() -> tuple[str, ...]:
    """Names :func:`load` knows without a path."""
    return tuple(sorted(entry.parent.name for entry in SHIPPED.glob(f"*/{folder.MODEL}")))


def find(path_or_name: str | Path) -> Path:
    """The model folder meant by a model folder, a run's folder, or a name such as ``"cifar10"``.

    Raises:
        ArtifactError: nothing there.
    """
    path = Path(path_or_name)
    try:
        for candidate in (path, path / run_folder.MODEL, SHIPPED / path_or_name):
            if (candidate / folder.MODEL).is_file():
                return candidate
        there = path.exists()
    except OSError as error:  # a name too long, a folder that may not be entered
        raise ArtifactError(f"{path}: cannot be looked at ({error.strerror}); check the path") from None
    if (path / run_folder.RECIPE).is_file():
        raise ArtifactError(f"{path}: this training has not come to its end; go on with: offramp train … --resume")
    if there:
        raise ArtifactError(f"{path}: not a model folder (no {folder.MODEL} in it); name the folder a training wrote")
    raise ArtifactError(
        f"no model is called '{path}' and no such folder exists; {suggest(str(path), shipped_models())}"
    )


def load(
    path_or_name: str | Path,
    runtime: str = "auto",
    *,
    precision: str = "fp32",
    threads: int | None = None,
    device: str | None = None,
    backbone: nn.Module | None = None,
) -> Classifier:
    """The classifier of a model folder, of a run's folder, or of a name such as ``"cifar10"``.

    Args:
        path_or_name: where it is.
        runtime: what computes: a name, or ``"auto"``, the fastest here. Measuring it, and preparing what it compares, takes
            up to a minute for a network that is new on this machine, and nothing from then on.
        precision: ``"fp32"``, ``"bf16"`` or ``"int8"``.
        threads: that compute one call; by default PyTorch's number.
        device: such as ``"cuda"``; by default the CPU.
        backbone: for a model whose exits were attached to a module of your own: that module, or the network with its exits.
            It is copied, and gets the weights of the file.

    Raises:
        ArtifactError: nothing there, or not to be read; or int8 of a model that has not been quantised.
        ConfigError: no such runtime or precision, or it cannot be had here.
        MissingExtraError: a package the runtime needs is not installed.
    """
    return folder.read(find(path_or_name), backbone=backbone).use(
        runtime, precision=precision, threads=threads, device=device
    )


def create(variant: str, *, num_classes: int | None = None) -> MultiExitNet:
    """A network by catalog name, freshly initialised, in training mode.

    Args:
        variant: such as ``"msdnet-cifar-batch-5"``; ``offramp list`` shows all.
        num_classes: instead of the variant's own.

    Raises:
        ConfigError: no such variant, or too few classes.
    """
    config: NetConfig = lookup("network", variant, "nets", "VARIANTS")
    return (config if num_classes is None else config.replace(num_classes=num_classes)).build()


@torch.inference_mode(False)
def import_checkpoint(
    path: str | Path,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    size: int | None = None,
    classes: tuple[str, ...] | None = None,
    spacing: Spacing | None = None,
    groups: int | None = None,
    condense_factor: int | None = None,
) -> Classifier:
    """A classifier from a published checkpoint; which format it has shows by itself.

    Known are those of kalviny/MSDNet-PyTorch, gpleiss/efficient_densenet_pytorch, torchvision's and timm's DenseNets, and
    ShichenLiu/CondenseNet (before and after conversion).

    Args:
        path: the file; it is read without running any code it may hold.
        mean: per channel of values in 0 … 1; without mean, std and size only ``.net`` works.
        std: like ``mean``.
        size: side of the images in pixels.
        classes: class names; their numbers by default.
        spacing: ``even`` or ``linear``, where an MSDNet's file leaves open which.
        groups: of the learned convolutions of a CondenseNet that has dropped nothing yet.
        condense_factor: the same.

    Raises:
        ArtifactError: not such a checkpoint, damaged, or in need of unpickling code.
        ConfigError: some but not all of mean, std and size; or the file leaves something open, or contradicts what is said.
    """
    from offramp.nets.foreign import Hints, read_any

    given = [value is not None for value in (mean, std, size)]
    if any(given) and not all(given):
        raise ConfigError(
            f"mean={mean}, std={std}, size={size}: give all three, or none for a model without preprocessing"
        )
    imported, source = read_any(Path(path), Hints(size, spacing, groups, condense_factor))
    preprocessing = Preprocessing(size, mean, std) if mean and std and size else None
    names = classes or tuple(str(label) for label in range(imported.net.config.num_classes))
    about = {
        "imported_from": source,
        "settled": list(imported.settled),
        "dropped": list(imported.dropped),
        "folded": list(imported.folded),
    }
    return Classifier(folder.fast(imported.net), names, preprocessing, about=about)


def ensemble(*models: Classifier) -> Classifier:
    """Several models as one with an exit for each: it answers with the mean of the probabilities so far.

    Args:
        models: for the same classes and images; the cheapest is run first, whatever their order here. Their networks are
            used, not copied.

    Raises:
        ConfigError: fewer than two, or other classes, images or preprocessing.
    """
    if len(models) < 2:
        raise ConfigError(f"{len(models)} models: an ensemble wants at least two")
    first = models[0]
    for place, one in enumerate(models[1:], 2):
        for what in ("classes", "preprocessing"):
            difference = _difference(getattr(first, what), getattr(one, what))
            if difference:
                raise ConfigError(
                    f"{what} of model 1 and of model {place} differ ({difference}); "
                    "take models for the same classes and images"
                )
    ordered = sorted(models, key=lambda one: one.costs.at_exit[-1])
    storage: Storage = "fp16" if all(one.storage == "fp16" for one in models) else "fp32"
    about: dict[str, Any] = {"ensemble": [one.identity for one in ordered]}
    sources = [one.about["source"] for one in models if "source" in one.about]
    if any(source != sources[0] for source in sources):
        raise ConfigError(
            "the models of an ensemble were trained with different data or hold-outs, so that no images are held out of all; "
            "train them with the same --data and holdout_seed"
        )
    if len(sources) == len(models):
        about["source"] = sources[0]
    return Classifier(
        Ensemble.of(*(one.net for one in ordered)), first.classes, first.preprocessing, storage=storage, about=about
    )


def _difference(ours: object, theirs: object) -> str:
    """Where two values differ first, on a short line; empty where they do not."""
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        if len(ours) != len(theirs):
            return f"{len(ours)} and {len(theirs)}"
        ours, theirs = next(((a, b) for a, b in zip(ours, theirs, strict=True) if a != b), (None, None))
    return "" if ours == theirs else f"{ours} and {theirs}"
