"""``offramp import-checkpoint``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Spacing(StrEnum):
    """How exits are spaced."""

    even = "even"
    linear = "linear"


def run(
    file: Annotated[Path, typer.Argument(help="Published checkpoint (.pth.tar, .pth, .dat).", metavar="FILE")],
    out: Annotated[Path, typer.Option(help="Model folder to write.", metavar="DIR")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set whose preprocessing and class names are taken, by name; of a folder of yours, the class names.",
            metavar="DATA",
        ),
    ] = None,
    mean: Annotated[str | None, typer.Option(help="Mean per channel of values in 0 … 1, e.g. 0.49,0.48,0.45.")] = None,
    std: Annotated[str | None, typer.Option(help="Standard deviation per channel.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the images in pixels.")] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Text file with one class name per line.", metavar="FILE")
    ] = None,
    spacing: Annotated[
        Spacing | None, typer.Option(help="even or linear, where an MSDNet's file leaves it open (even).")
    ] = None,
    groups: Annotated[
        int | None,
        typer.Option(help="Groups of a CondenseNet that has dropped nothing yet, so that its file hides them."),
    ] = None,
    condense_factor: Annotated[int | None, typer.Option(help="Condensation factor of such a CondenseNet.")] = None,
) -> None:
    """Turn a published checkpoint into a model folder.

    Known are files of kalviny/MSDNet-PyTorch, gpleiss/efficient_densenet_pytorch, ShichenLiu/CondenseNet (before and after
    conversion), and DenseNets of torchvision and timm. Which it is, and the network's shape, is read off the weights.
    Without --data, or --mean, --std and --size, the network can be used from Python but `predict` refuses, since nothing in
    the file says what its images went through.
    """
    from offramp.classifier.entry import import_checkpoint
    from offramp.classifier.folder import check_free, save
    from offramp.cli.show import remark, say
    from offramp.data.detect import is_folder

    check_free(out)
    how = _preprocessing(data, mean, std, size, classes)
    classifier = import_checkpoint(
        file, **how, spacing=spacing.value if spacing else None, groups=groups, condense_factor=condense_factor
    )
    save(classifier, out)
    for settled in classifier.about["settled"]:
        remark(settled)
    for kind, why in (("dropped", "unused cells, dropped"), ("folded", "folded into norms")):
        if classifier.about[kind]:
            remark(f"{why}: {', '.join(classifier.about[kind])}")
    if classifier.preprocessing is None:
        remark("no preprocessing given: use .net from Python, or import again with --data")
    config = classifier.net.config
    exits = f"{classifier.net.num_exits} exit{'s'[: classifier.net.num_exits > 1]}"
    say(f"wrote {out}: {config.family}, {exits}, {config.num_classes} classes")
    if classifier.preprocessing is not None:
        root = "" if data and is_folder(data) else " --data-root DIR"
        say(f"next: offramp calibrate {out} --data {data or 'NAME'}{root}")


def _preprocessing(
    data: str | None, mean: str | None, std: str | None, size: int | None, classes: Path | None
) -> dict[str, Any]:
    from offramp.data.detect import is_folder, named_source
    from offramp.data.preprocess import Preprocessing
    from offramp.errors import ConfigError

    if data is not None and classes is not None:
        raise ConfigError("--data brings the classes along; give either --data or --classes")
    if data is not None and not is_folder(data):
        if any(value is not None for value in (mean, std, size)):
            raise ConfigError("--data brings mean, std and size along; give either --data or those")
        spec = named_source(data)
        known = spec.preprocessing
        return {"mean": known.mean, "std": known.std, "size": known.image_size, "classes": spec.classes}
    given = _numbers("mean", mean), _numbers("std", std), size
    names = None if classes is None else _lines(classes)
    if data is not None:
        if given[0] is None or given[1] is None or size is None:
            raise ConfigError(
                f"--data {data}: a folder does not tell how images are prepared; give --mean, --std and --size too"
            )
        names = named_source(data, Preprocessing(size, given[0], given[1])).classes
    return {"mean": given[0], "std": given[1], "size": size, "classes": names}


def _lines(path: Path) -> tuple[str, ...]:
    from offramp.errors import DataError

    try:
        return tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a text file with one class name per line") from None


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    from offramp.errors import ConfigError

    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--{option} {text}: give numbers separated by commas, such as 0.49,0.48,0.45") from None
