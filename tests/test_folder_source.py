import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from offramp.catalog import entries
from offramp.data.folder import ClassFolders, folder_source, read_classes
from offramp.data.holdout import Holdout
from offramp.data.preprocess import Preprocessing
from offramp.data.source import Source
from offramp.data.streamed import StreamedSplit
from offramp.data.workers import Workers
from offramp.errors import DataError
from pictures import picture, write_classes, write_picture

COLOUR = Preprocessing(8, (0.5,) * 3, (0.5,) * 3)
HERE = Workers(0)
IMAGENET: ClassFolders = entries("data", "SOURCES")["imagenet"]


def names(samples: object) -> list[str]:
    """Of the files of a split, below its folder."""
    assert isinstance(samples, StreamedSplit)
    return samples.listing().decode().split("\n")


def opened(root: Path, holdout: int = 2) -> Source:
    return folder_source(root, COLOUR).open(holdout=Holdout(size=holdout), workers=HERE)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "pets", **{"dog": 3, "cat": 4, "old cat": 5})


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """ImageNet's layout, with two classes."""
    root = tmp_path / "imagenet"
    write_classes(root / "train", n01440764=6, n01443537=5)
    write_classes(root / "val", n01440764=2, n01443537=1)
    return root


def test_folders_are_classes_in_the_order_of_their_names(pets: Path) -> None:
    spec = folder_source(pets, COLOUR)
    assert (spec.name, spec.classes, spec.preprocessing) == ("pets", ("cat", "dog", "old cat"), COLOUR)
    samples = read_classes(pets, spec.classes)
    assert names(samples) == [
        f"{name}/{n}.png" for name, count in (("cat", 4), ("dog", 3), ("old cat", 5)) for n in range(count)
    ]
    assert samples.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 5


def test_a_tenth_is_suggested_as_hold_out_and_one_image_at_least(tmp_path: Path) -> None:
    assert folder_source(write_classes(tmp_path / "many", a=15, b=10), COLOUR).holdout == 2
    assert folder_source(write_classes(tmp_path / "few", a=2, b=2), COLOUR).holdout == 1


def test_splits_never_share_a_file(imagenet: Path) -> None:
    source = opened(imagenet, holdout=4)
    train, calibrate, test = (names(source.split(name)) for name in ("train", "calibrate", "test"))
    assert (len(train), len(calibrate), len(test)) == (7, 4, 3)
    assert len({*train, *calibrate}) == 11
    assert test == ["n01440764/0.png", "n01440764/1.png", "n01443537/0.png"]


def test_each_image_keeps_its_label_through_the_splits(imagenet: Path) -> None:
    source = opened(imagenet)
    for name in ("train", "calibrate", "test"):
        split = source.split(name)
        assert split.labels.tolist() == [source.classes.index(file.split("/")[0]) for file in names(split)]


def test_images_are_the_files_own(tmp_path: Path) -> None:
    write_picture(tmp_path / "pets" / "cat" / "only.png", 5, size=(8, 8))
    write_picture(tmp_path / "pets" / "dog" / "only.png", 6, size=(8, 8))
    split = read_classes(tmp_path / "pets", ("cat", "dog")).prepared(COLOUR, HERE)
    (batch,) = split.batches(2)
    assert np.array_equal(batch, np.stack([np.asarray(picture(seed, (8, 8))) for seed in (5, 6)]))


@pytest.mark.parametrize("place", ["test", "val", "valid", "validation"])
def test_the_test_part_may_have_any_of_its_usual_names(place: str, imagenet: Path) -> None:
    (imagenet / "val").rename(imagenet / place)
    assert len(opened(imagenet).split("test")) == 3


def test_a_test_folder_goes_before_a_validation_folder(imagenet: Path) -> None:
    write_classes(imagenet / "test", n01440764=1)
    assert names(opened(imagenet).split("test")) == ["n01440764/0.png"]


def test_a_class_may_be_missing_in_the_test_part(imagenet: Path) -> None:
    shutil.rmtree(imagenet / "val" / "n01440764")
    assert opened(imagenet).split("test").labels.tolist() == [1]


@pytest.mark.parametrize("with_train", [True, False])
def test_without_a_test_part_training_works_and_the_way_to_have_one_is_told(with_train: bool, tmp_path: Path) -> None:
    root = tmp_path / "pets"
    write_classes(root / "train" if with_train else root, cat=3, dog=3)
    source = opened(root)
    assert (len(source.split("train")), len(source.split("calibrate"))) == (4, 2)
    with pytest.raises(
        DataError, match=r"pets: has no test images; put them into .*/pets/test/CLASS .*--split calibrate"
    ):
        source.split("test")


def test_what_is_hidden_or_the_systems_own_is_left_out(pets: Path) -> None:
    before = read_classes(pets, ("cat", "dog", "old cat"))
    for path in (".DS_Store", "cat/.DS_Store", "cat/Thumbs.db", "dog/desktop.ini", "README.md"):
        (pets / path).touch()
    write_classes(pets, **{".git": 1, "__MACOSX": 1})
    write_classes(pets / "cat", **{".thumbnails": 2})
    assert folder_source(pets, COLOUR).classes == ("cat", "dog", "old cat")
    assert read_classes(pets, ("cat", "dog", "old cat")).listing() == before.listing()


def test_images_in_folders_of_a_class_belong_to_it(tmp_path: Path) -> None:
    write_classes(tmp_path / "pets" / "cat", indoors=2, a=1)
    write_classes(tmp_path / "pets", cat=1, dog=1)
    samples = read_classes(tmp_path / "pets", ("cat", "dog"))
    assert names(samples) == ["cat/0.png", "cat/a/0.png", "cat/indoors/0.png", "cat/indoors/1.png", "dog/0.png"]
    assert samples.labels.tolist() == [0, 0, 0, 0, 1]


def test_linked_folders_and_images_are_followed(pets: Path, tmp_path: Path) -> None:
    elsewhere = write_classes(tmp_path / "elsewhere", fox=2)
    (pets / "fox").symlink_to(elsewhere / "fox")
    (pets / "cat" / "linked.png").symlink_to(elsewhere / "fox" / "0.png")
    spec = folder_source(pets, COLOUR)
    assert spec.classes == ("cat", "dog", "fox", "old cat")
    assert len(spec.read(None, "train")) == 15


def test_any_format_of_pillow_in_any_spelling_is_an_image(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.JPEG", "c.Png", "d.webp", "e.gif", "f.bmp", "g.tif"):
        write_picture(tmp_path / "pets" / "cat" / name)
    assert len(read_classes(tmp_path / "pets", ("cat",))) == 7


def touch(*parts: str) -> Callable[[Path], object]:
    return lambda root: root.joinpath(*parts).touch()


def make(*parts: str) -> Callable[[Path], object]:
    return lambda root: root.joinpath(*parts).mkdir(parents=True)


def only_files(root: Path) -> None:
    shutil.rmtree(root)
    write_picture(root / "0.png")


def file_instead(root: Path) -> None:
    shutil.rmtree(root)
    root.touch()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (make("fox"), "pets/fox: class 'fox' has no images; add some or remove the folder"),
        (make("fox", "deeper", "still"), "pets/fox: class 'fox' has no images; add some or remove the folder"),
        (make("Cat"), "pets: 'Cat' and 'cat' look like two names for one class; merge or rename them"),
        (make("Old_Cat"), "pets: 'Old_Cat' and 'old cat' look like two names for one class; merge or rename them"),
        (touch("cat", "notes.txt"), "pets/cat/notes.txt: not an image by its name; move it out of the class folders"),
        (touch("cat", "nameless"), "pets/cat/nameless: not an image by its name; move it out of the class folders"),
        (only_files, "pets: has no folders; put the images of each class into a folder of its name: {root}/CLASS/*"),
        (shutil.rmtree, "pets: no such folder; check the path"),
        (file_instead, "pets: cannot be listed (Not a directory); check the path"),
    ],
)  # fmt: skip
def test_a_folder_nobody_could_train_on_is_refused(spoil: Callable[[Path], object], message: str, pets: Path) -> None:
    spoil(pets)
    with pytest.raises(DataError) as caught:
        folder_source(pets, COLOUR).read(None, "train")
    assert str(caught.value) == f"{pets.parent}/" + message.format(root=pets)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (make("val", "n99999999"), "val/n99999999: 'n99999999' is not a class of the training part; rename or remove"),
        (make("val", "N01440764"), "val/N01440764: 'N01440764' is not a class of the training part"),
        (touch("val", "n01440764", "list.csv"), "val/n01440764/list.csv: not an image by its name"),
        (lambda root: [file.unlink() for file in (root / "val" / "n01443537").iterdir()], "class 'n01443537' has no images"),
        (lambda root: only_files(root / "val"), "val: has no folders; put the images of each class into a folder"),
    ],
)  # fmt: skip
def test_a_test_part_that_does_not_fit_is_refused_and_training_is_not(
    spoil: Callable[[Path], object], message: str, imagenet: Path
) -> None:
    spoil(imagenet)
    source = opened(imagenet)
    assert len(source.split("train")) == 9
    with pytest.raises(DataError) as caught:
        source.split("test")
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(imagenet))


def test_classes_of_a_hundred_names_are_no_duplicates_of_each_other(tmp_path: Path) -> None:
    write_classes(tmp_path / "set", **{f"class_{number}": 1 for number in range(100)}, class_1_1=1, class1=1)
    assert len(folder_source(tmp_path / "set", COLOUR).classes) == 102


def test_imagenet_is_found_below_the_data_root_with_its_own_preprocessing(imagenet: Path) -> None:
    source = IMAGENET.open(imagenet.parent, Holdout(size=3), workers=HERE)
    assert source.classes == ("n01440764", "n01443537")
    assert source.preprocessing == IMAGENET.preprocessing
    assert (source.preprocessing.image_size, source.preprocessing.resize) == (224, 256)
    (batch,) = source.split("calibrate").batches(3)
    assert batch.shape == (3, 224, 224, 3)


def test_imagenet_holds_out_50_000_unless_told_otherwise(imagenet: Path) -> None:
    with pytest.raises(DataError, match="'imagenet' has 11 training images, its hold-out wants 50000"):
        IMAGENET.open(imagenet.parent).split("train")


def test_imagenet_wants_its_folder() -> None:
    with pytest.raises(DataError, match="data set 'imagenet' lives in a folder of yours; name the one above it with"):
        IMAGENET.open()


def test_the_hold_out_belongs_to_the_files_it_counts(pets: Path) -> None:
    before = opened(pets).holdout_digest
    assert opened(pets).holdout_digest == before
    (pets / "cat" / "0.png").rename(pets / "cat" / "zero.png")
    assert opened(pets).holdout_digest != before


@pytest.mark.parametrize("name", ["Train", "test", "Validation"])
def test_the_name_of_a_part_is_no_class(tmp_path: Path, name: str) -> None:
    root = write_classes(tmp_path / "pets", dog=2, cat=2, **{name: 2})
    with pytest.raises(DataError, match=rf"{name}: the name of a part, not of a class; put images into .*/train/CLASS"):
        folder_source(root, COLOUR)


def test_one_class_is_nothing_to_choose_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has one class only, 'dog'; there must be a folder for each of at least two"):
        folder_source(write_classes(tmp_path / "pets", dog=4), COLOUR)


def test_imagenet_keeps_its_name_behind_a_link(imagenet: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "imagenet").symlink_to(imagenet.rename(tmp_path / "ILSVRC2012"))
    assert IMAGENET.open(tmp_path / "elsewhere", Holdout(size=2), workers=HERE).name == "imagenet"


def test_a_hold_out_may_not_take_a_whole_class(tmp_path: Path) -> None:
    source = folder_source(write_classes(tmp_path / "pets", dog=6, cat=1), COLOUR)
    with pytest.raises(DataError, match=r"takes all training images of class 'cat'; .* name those to hold out"):
        source.open(holdout=Holdout(indices=np.array([0])), workers=HERE).split("train")


def test_data_is_told_from_other_data_of_the_same_size(tmp_path: Path) -> None:
    def digest(root: Path) -> str:
        return opened(root).digest

    pets = write_classes(tmp_path / "one" / "pets", dog=4, cat=4)
    same = Path(shutil.copytree(pets, tmp_path / "two" / "pets"))
    other = write_classes(tmp_path / "three" / "pets", dog=4, cow=4)
    relabelled = write_classes(tmp_path / "four" / "pets", dog=5, cat=3)
    assert digest(pets) == digest(same)
    assert len({digest(pets), digest(other), digest(relabelled)}) == 3
