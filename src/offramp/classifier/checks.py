"""What must fit together before a classifier may answer."""

from offramp.data.preprocess import Preprocessing
from offramp.data.source import Source
from offramp.errors import ConfigError, DataError
from offramp.nets.base import MultiExitNet


def check_parts(net: MultiExitNet, classes: tuple[str, ...], preprocessing: Preprocessing | None) -> None:
    """Refuse class names or preprocessing that do not fit the network.

    Raises:
        ConfigError: another number of classes, a name twice, other channels or another image size; or weights made under
            ``torch.inference_mode``, whose changes PyTorch does not count.
    """
    if any(tensor.is_inference() for tensor in (*net.parameters(), *net.buffers())):
        raise ConfigError("the network was built inside torch.inference_mode(); build it outside, and call it wherever")
    if len(classes) != net.config.num_classes or len(set(classes)) != len(classes):
        raise ConfigError(
            f"{len(set(classes))} distinct class names for a network of {net.config.num_classes} classes; "
            "give a name of its own for each"
        )
    if preprocessing is not None and preprocessing.channels != net.config.image_channels:
        raise ConfigError(
            f"preprocessing of {preprocessing.channels} channels for a network of {net.config.image_channels}; "
            "give mean and std for as many channels"
        )
    if preprocessing is not None and preprocessing.image_size != net.config.image_size:
        raise ConfigError(
            f"preprocessing to {preprocessing.image_size} pixels for a network priced at {net.config.image_size}; "
            f"build the network with image_size={preprocessing.image_size}"
        )


def check_classes(classes: tuple[str, ...], source: Source) -> None:
    """Refuse data of other classes than a model's.

    Raises:
        DataError: number, names or order differ.
    """
    if source.classes != classes:
        raise DataError(
            f"data set '{source.name}' has {len(source.classes)} classes ({source.classes[0]}, …), "
            f"this model {len(classes)} ({classes[0]}, …); take the data it was trained for, "
            "or import it with these class names"
        )
