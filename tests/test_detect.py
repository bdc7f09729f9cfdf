import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offramp.data.cifar import CIFAR10_CLASSES
from offramp.data.detect import find_source, named_source
from offramp.data.preprocess import Preprocessing
from offramp.data.source import SourceSpec
from offramp.errors import ConfigError, DataError
from published import CIFAR, cifar_images, pack, write_idx, write_parquet, write_small_cifar, write_svhn

CIFAR10 = CIFAR10_CLASSES.split()
PREPROCESSING = Preprocessing(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def labels(spec: SourceSpec) -> tuple[list[int], list[int]]:
    """Of both parts, as a user gets them who named nothing but the path."""
    source = spec.open()
    train = source.spec.read(None, "train")
    return train.labels.tolist(), source.split("test").labels.tolist()


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        find_source(path, PREPROCESSING)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_classes(folder: Path) -> Path:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            Image.new("RGB", (20, 20)).save(folder / part / name / "one.png")
    return folder


CIFAR_LABELS = (list(range(10)), [9, 0, 4])
IDX_LABELS = ([*range(10), 0, 1], [0, 1, 2, 3])
SVHN_LABELS = ([*range(1, 10), 0, 1, 2], [1, 2, 3, 4])


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("place", ["mine", "cifar10", "cifar100", "cifar-100-python"])
@pytest.mark.parametrize("form", ["folder", "bare", "archive"])
def test_official_cifar_is_found_in_a_folder_of_any_name(tmp_path: Path, name: str, place: str, form: str) -> None:
    path = tmp_path / place
    made = write_small_cifar(tmp_path / "made" / CIFAR[name][0], name)
    if form == "archive":
        pack(made, path / f"{made.name.removesuffix('-batches-py').removesuffix('-python')}-python.tar.gz")
    else:
        shutil.copytree(made, path / made.name if form == "folder" else path)
    spec = find_source(path, PREPROCESSING)
    assert (spec.name, spec.needs_root, spec.preprocessing.image_size) == (name, False, 32)
    assert labels(spec) == CIFAR_LABELS


@pytest.mark.parametrize("place", ["svhn", "mine"])
def test_svhn_is_found_in_a_folder_of_any_name(tmp_path: Path, place: str) -> None:
    spec = find_source(write_svhn(tmp_path / place), PREPROCESSING)
    assert (spec.name, labels(spec)) == ("svhn", SVHN_LABELS)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("below", ["", "raw"])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_are_told_by_the_name_of_their_folder(tmp_path: Path, name: str, below: str, zipped: bool) -> None:
    write_idx(tmp_path / name / below, zipped=zipped)
    spec = find_source(tmp_path / name, PREPROCESSING)
    assert (spec.name, spec.preprocessing.channels) == (name, 1)
    assert labels(spec) == IDX_LABELS


@pytest.mark.parametrize("below", ["", "raw"])
def test_idx_files_in_a_folder_of_another_name_are_refused_with_the_way_that_works(tmp_path: Path, below: str) -> None:
    path = tmp_path / "pictures"
    write_idx(path / below)
    assert refusal(path) == (
        f"{path}: IDX files do not say which data set they are; name the folder mnist or fashion-mnist, "
        f"or say which: --data mnist --data-root {path}"
    )
    assert len(named_source("mnist").read(path, "train")) == 12


def test_parquet_files_in_a_folder_called_cifar10_are_cifar10(tmp_path: Path) -> None:
    spec = find_source(write_parquet(tmp_path / "cifar10", CIFAR10, cifar_images(2), [0, 1]), PREPROCESSING)
    assert (spec.name, labels(spec)) == ("cifar10", ([0, 1], [0, 1]))


@pytest.mark.parametrize("place", ["mine", "digits", "imagenet", "mnist", "svhn"])
def test_other_parquet_files_are_a_data_set_of_the_users_whatever_the_folder_is_called(
    tmp_path: Path, place: str
) -> None:
    spec = find_source(write_parquet(tmp_path / place, ["cat", "dog"], cifar_images(2), [0, 1]), PREPROCESSING)
    assert (spec.name, spec.classes, spec.preprocessing) == (place, ("cat", "dog"), PREPROCESSING)
    assert labels(spec) == ([0, 1], [0, 1])


@pytest.mark.parametrize("place", ["mine", "mnist", "cifar100"])
def test_class_folders_are_found_whatever_the_folder_is_called(tmp_path: Path, place: str) -> None:
    spec = find_source(write_classes(tmp_path / place), PREPROCESSING)
    assert (spec.name, spec.classes, spec.preprocessing) == (place, ("cat", "dog"), PREPROCESSING)
    assert labels(spec) == ([0, 1], [0, 1])


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_the_folder_one_stands_in_is_found_by_its_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "mnist":
        write_idx(tmp_path / name)
    else:
        write_parquet(tmp_path / name, CIFAR10, cifar_images(2), [0, 1])
    monkeypatch.chdir(tmp_path / name)
    spec = find_source(Path(), PREPROCESSING)
    assert spec.name == name
    assert len(spec.open().split("test")) == (4 if name == "mnist" else 2)


def test_a_folder_with_two_data_sets_is_refused_with_the_way_that_works(tmp_path: Path) -> None:
    for name in ("cifar10", "cifar100"):
        write_small_cifar(tmp_path / CIFAR[name][0], name)
    assert refusal(tmp_path) == (
        f"{tmp_path}: holds cifar10 and cifar100; say which: --data cifar10 --data-root {tmp_path}"
    )
    for name in ("cifar10", "cifar100"):
        assert len(named_source(name).read(tmp_path, "train")) == 10


def test_what_is_no_folder_of_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    assert refusal(tmp_path / "nowhere") == f"{tmp_path}/nowhere: no such folder; check the path"
    assert refusal(tmp_path / "file") == f"{tmp_path}/file: not a folder; check the path"
    assert refusal(tmp_path / "empty").startswith(f"{tmp_path}/empty: has no folders; put the images of each class")


def test_a_name_is_looked_up_and_a_path_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_svhn(tmp_path / "house-numbers")
    write_classes(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert named_source("digits").preprocessing.channels == 1  # the built-in ones
    assert named_source("./digits", PREPROCESSING).classes == ("cat", "dog")
    assert named_source("house-numbers", PREPROCESSING).name == "svhn"
    with pytest.raises(ConfigError, match="no data set is called 'cifar11'; did you mean"):
        named_source("cifar11")
    with pytest.raises(ConfigError, match="nothing says how its images are prepared; give a model or a recipe"):
        named_source("house-numbers")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "mnist", "fashion-mnist"])
def test_the_images_of_a_path_are_those_of_the_name(tmp_path: Path, name: str) -> None:
    if name.startswith("cifar"):
        write_small_cifar(tmp_path / name, name)
    elif name == "svhn":
        write_svhn(tmp_path / name)
    else:
        write_idx(tmp_path / name)
    by_path, by_name = find_source(tmp_path / name, PREPROCESSING), named_source(name)
    for part in ("train", "test"):
        one, other = by_path.read(None, part), by_name.read(tmp_path, part)
        assert all(np.array_equal(a, b) for a, b in zip(one.batches(8), other.batches(8), strict=True))
        assert np.array_equal(one.labels, other.labels)
