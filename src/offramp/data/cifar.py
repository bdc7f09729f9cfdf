"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009)."""

from pathlib import Path
from typing import Literal

from offramp.data.parquet import read_part
from offramp.data.preprocess import Preprocessing
from offramp.data.source import SourceSpec, Split

CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
    forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
    mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree
    wolf woman worm
"""


def _source(name: str, class_names: str, mean: tuple[float, ...], std: tuple[float, ...]) -> SourceSpec:
    classes = tuple(class_names.split())

    def read(root: Path | None, part: Literal["train", "test"]) -> Split:
        folder = (root or Path()) / name
        return read_part(folder, part, classes, labels=("label", "fine_label"), size=32, mode="RGB")

    return SourceSpec(name, classes, Preprocessing(32, mean, std), holdout=5000, needs_root=True, read=read)


SOURCES = {
    "cifar10": _source("cifar10", CIFAR10_CLASSES, (0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616)),
    "cifar100": _source("cifar100", CIFAR100_CLASSES, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
