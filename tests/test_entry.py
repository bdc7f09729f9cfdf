from pathlib import Path

import pytest
import torch

from offramp.classifier import create, import_checkpoint, load
from offramp.classifier.entry import find, shipped_models
from offramp.classifier.folder import save
from offramp.errors import ArtifactError, ConfigError
from offramp.nets.msdnet import VARIANTS
from tiny import images, make_classifier

CHECKPOINT = Path(__file__).parent / "oracles" / "msdnet_even.pth.tar"
GREY = 0.5


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shipped models: one called ``halves``."""
    shelf = tmp_path_factory.mktemp("shipped")
    save(make_classifier(), shelf / "halves")
    return shelf


@pytest.fixture(autouse=True)
def _shipped(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offramp.classifier.entry.SHIPPED", shelf)


def test_a_model_is_loaded_by_its_folder_by_its_runs_folder_or_by_name(shelf: Path, tmp_path: Path) -> None:
    save(make_classifier(seed=1), tmp_path / "run" / "model")
    trained, shipped = make_classifier(seed=1, calibrated=False), make_classifier(calibrated=False)
    assert load(tmp_path / "run" / "model").identity == trained.identity
    assert load(tmp_path / "run").identity == trained.identity
    assert load(str(tmp_path / "run")).identity == trained.identity
    assert load("halves").identity == shipped.identity


def test_a_folder_of_that_name_comes_before_a_shipped_model(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("halves") == shelf / "halves"
    save(make_classifier(seed=1), tmp_path / "halves")
    assert find("halves") == Path("halves")


def test_the_shipped_models_are_listed_by_name(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shelf / "no-model").mkdir(exist_ok=True)
    assert shipped_models() == ("halves",)
    monkeypatch.setattr("offramp.classifier.entry.SHIPPED", shelf / "nowhere")
    assert shipped_models() == ()


def test_for_an_unknown_name_near_ones_are_offered() -> None:
    with pytest.raises(
        ArtifactError, match="no model is called 'halfs' and no such folder exists; did you mean 'halves'"
    ):
        load("halfs")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"not a model folder \(no model\.json in it\)"):
        load(tmp_path)


def test_a_path_nobody_can_look_at_is_refused() -> None:
    with pytest.raises(ArtifactError, match="cannot be looked at"):
        load("x" * 5000)


def test_a_network_is_created_by_name_and_ready_to_train() -> None:
    net = create("msdnet-digits")
    assert net.training
    assert net.config == VARIANTS["msdnet-digits"]


def test_a_network_can_be_created_for_another_number_of_classes() -> None:
    net = create("msdnet-digits", num_classes=3).eval()
    assert net.config.num_classes == 3
    assert net(torch.zeros(1, 1, 32, 32)).shape[-1] == 3


def test_unknown_networks_and_impossible_numbers_of_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="no network is called 'msdnet-digit'; did you mean 'msdnet-digits'"):
        create("msdnet-digit")
    with pytest.raises(ConfigError, match="num_classes=1"):
        create("msdnet-digits", num_classes=1)


def test_an_imported_checkpoint_predicts_once_it_knows_what_images_went_through(tmp_path: Path) -> None:
    classifier = import_checkpoint(CHECKPOINT, mean=(GREY,) * 3, std=(GREY,) * 3, size=32)
    assert classifier.classes == tuple("0123456789")
    assert classifier.about["imported_from"] == "kalviny/MSDNet-PyTorch"
    pixels = images(2).repeat(2, axis=1).repeat(2, axis=2).repeat(3, axis=3)
    found = classifier.predict(pixels)
    save(classifier, tmp_path / "model")
    assert load(tmp_path / "model").predict(pixels).logits == pytest.approx(found.logits, rel=1e-5, abs=1e-5)


def test_an_imported_checkpoint_takes_class_names() -> None:
    names = tuple("abcdefghij")
    assert import_checkpoint(str(CHECKPOINT), classes=names).classes == names


def test_half_of_the_preprocessing_is_refused() -> None:
    with pytest.raises(ConfigError, match="give all three, or none"):
        import_checkpoint(CHECKPOINT, mean=(GREY,) * 3)
