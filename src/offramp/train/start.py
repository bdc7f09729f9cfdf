"""What a run begins with: its images, and the network fitted to them."""

from dataclasses import replace

from offramp.catalog import lookup
from offramp.classifier import Classifier
from offramp.data.detect import named_source
from offramp.data.preprocess import Preprocessing
from offramp.data.source import Source, SourceSpec
from offramp.errors import ConfigError
from offramp.nets.base import MultiExitNet, NetConfig
from offramp.train.groups import fresh_exits
from offramp.train.recipe import Recipe
from offramp.train.trainer import build_seeded


def source_of(recipe: Recipe, data: str | None, init: Classifier | None) -> tuple[SourceSpec, Preprocessing]:
    """The data set of a run, and what its images go through.

    Args:
        recipe: names a data set, and a size and interpolation that may differ from it.
        data: catalog name or folder, instead of the recipe's.
        init: model trained further; its preprocessing holds.

    Raises:
        ConfigError: no data set is named.
    """
    check_start(recipe, init)
    base = None if init is None else init.preprocessing
    if base is None and recipe.source:
        own: SourceSpec = lookup("data set", recipe.source, "data", "SOURCES")
        base = own.preprocessing
    name = data or recipe.source
    if not name:
        raise ConfigError("this recipe is for images of yours; name their folder, or a data set, with --data")
    spec = named_source(name, base)
    return spec, _fitted(spec.preprocessing if init is None or base is None else base, recipe)


def _fitted(base: Preprocessing, recipe: Recipe) -> Preprocessing:
    size = recipe.image_size or base.image_size
    resize = round(base.resize * size / base.image_size)
    interpolation = base.interpolation if recipe.interpolation == "keep" else recipe.interpolation
    return replace(base, image_size=size, resize=resize, interpolation=interpolation)


def build_net(recipe: Recipe, source: Source, init: Classifier | None) -> MultiExitNet:
    """The network of a run, fitted to the classes and images of the data set; from ``init`` with new last layers.

    Raises:
        ConfigError: see :func:`check_start`; or images of other channels than the model's.
    """
    check_start(recipe, init)
    config = net_config(recipe, source, init)
    net = build_seeded(config.build if init is None else lambda: init.net.rebuilt(config), recipe.seed)
    if init is not None:
        fresh_exits(net, init.net, keep_answers=init.classes == source.classes)
    return net


def check_start(recipe: Recipe, init: Classifier | None) -> None:
    """Refuse a recipe that does not say what to begin with, or says it twice.

    Raises:
        ConfigError: neither a variant nor a model, or both, or random weights that are to be kept.
    """
    if init is None and not recipe.variant:
        raise ConfigError("this recipe trains a model further; name it with --init, such as --init cifar10")
    if init is not None and recipe.variant:
        raise ConfigError(
            f"the recipe builds '{recipe.variant}' and --init brings a network of its own; take the recipe finetune"
        )
    if init is None and recipe.freeze != "none":
        raise ConfigError(
            f"freeze={recipe.freeze}: would keep random weights; name a model with --init, or leave it out"
        )


def net_config(recipe: Recipe, source: Source, init: Classifier | None = None) -> NetConfig:
    """The recipe's variant, or the model's network, fitted to the classes and images of the data set.

    Raises:
        ConfigError: dropout in a network that has none.
    """
    base: NetConfig = init.net.config if init else lookup("network", recipe.variant, "nets", "VARIANTS")
    preprocessing = source.preprocessing
    changes: dict[str, object] = {"dropout": recipe.dropout} if recipe.dropout else {}
    if changes and not hasattr(base, "dropout"):
        raise ConfigError(f"dropout={recipe.dropout}: a network of family '{base.family}' has none; set it to 0")
    return base.replace(
        num_classes=len(source.classes), image_channels=preprocessing.channels, image_size=preprocessing.image_size,
        **changes,
    )  # fmt: skip
