import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from offramp.classifier import Classifier
from offramp.classifier.folder import CALIBRATION, MODEL, WEIGHTS, read, save
from offramp.classifier.identity import Storage
from offramp.errors import ArtifactError
from tiny import CLASSES, PREPROCESSING, images, make_classifier, make_net

PIXELS = images(12)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "written"
    save(make_classifier(storage="fp16"), folder)
    return folder


@pytest.fixture
def stored(written: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(written, tmp_path / "model"))


def rewrite(folder: Path, **changes: Any) -> None:
    fields = json.loads((folder / MODEL).read_text())
    (folder / MODEL).write_text(json.dumps({**fields, **changes}))


def without(folder: Path, field: str) -> None:
    fields = json.loads((folder / MODEL).read_text())
    del fields[field]
    (folder / MODEL).write_text(json.dumps(fields))


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_what_was_saved_comes_back(storage: Storage, tmp_path: Path) -> None:
    classifier = make_classifier(storage=storage)
    save(classifier, tmp_path / "model")
    loaded = read(tmp_path / "model")
    assert loaded.net.config == classifier.net.config
    assert (loaded.classes, loaded.preprocessing) == (CLASSES, PREPROCESSING)
    assert (loaded.identity, loaded.storage, loaded.about) == (classifier.identity, storage, classifier.about)
    assert not loaded.net.training
    assert loaded.calibration is not None
    assert loaded.calibration.solve(1e9, loaded.costs) == classifier.plan(1e9)
    tolerance = 1e-6 if storage == "fp32" else 5e-3
    assert loaded.predict(PIXELS).probabilities == pytest.approx(
        classifier.predict(PIXELS).probabilities, abs=tolerance
    )


def test_saving_what_was_loaded_changes_nothing_any_more(stored: Path, tmp_path: Path) -> None:
    loaded = read(stored)
    save(loaded, tmp_path / "again")
    for file in (MODEL, WEIGHTS, CALIBRATION):
        assert (tmp_path / "again" / file).read_bytes() == (stored / file).read_bytes()
    assert np.array_equal(read(tmp_path / "again").predict(PIXELS).logits, loaded.predict(PIXELS).logits)


def test_weights_are_kept_in_half_precision_and_norms_in_full(stored: Path) -> None:
    for name, tensor in load_file(stored / WEIGHTS).items():
        kind = "int64" if name.endswith("num_batches_tracked") else "float16" if tensor.ndim > 1 else "float32"
        assert str(tensor.dtype) == f"torch.{kind}", name


def test_a_model_without_preprocessing_or_calibration_stays_so(tmp_path: Path) -> None:
    save(Classifier(make_net(), CLASSES, None), tmp_path / "model")
    loaded = read(tmp_path / "model")
    assert loaded.preprocessing is None
    assert loaded.calibration is None
    assert loaded.about == {}


def test_saving_without_a_calibration_takes_an_old_one_away(stored: Path) -> None:
    save(make_classifier(calibrated=False), stored)
    assert read(stored).calibration is None


def test_the_calibration_of_another_model_is_refused(stored: Path, tmp_path: Path) -> None:
    save(make_classifier(seed=1, storage="fp16"), tmp_path / "other")
    shutil.copy(tmp_path / "other" / CALIBRATION, stored / CALIBRATION)
    with pytest.raises(ArtifactError, match="the calibration was made for"):
        read(stored)


def test_a_calibration_made_before_the_preprocessing_changed_is_refused(stored: Path) -> None:
    rewrite(stored, preprocessing={"image_size": 16, "mean": [0.5], "std": [0.25]})
    with pytest.raises(ArtifactError, match="the calibration was made for"):
        read(stored)


def test_a_newer_model_is_refused_by_version(stored: Path) -> None:
    rewrite(stored, version=2)
    with pytest.raises(ArtifactError, match=r"model\.json: offramp-model version 2 is newer .*upgrade offramp"):
        read(stored)


def test_a_folder_of_another_format_is_refused(stored: Path) -> None:
    rewrite(stored, format="offramp-plan")
    with pytest.raises(ArtifactError, match="format 'offramp-plan' is not 'offramp-model'"):
        read(stored)


def test_a_network_family_nobody_knows_is_refused_with_near_names(stored: Path) -> None:
    rewrite(stored, family="msdnte")
    with pytest.raises(ArtifactError, match="network family 'msdnte' is unknown; did you mean 'msdnet'"):
        read(stored)


@settings(max_examples=12)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_single_flipped_bit_in_the_weights_is_noticed(stored: Path, place: float, bit: int) -> None:
    path = stored / WEIGHTS
    whole = bytearray(path.read_bytes())
    damaged = bytearray(whole)
    damaged[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        with pytest.raises(ArtifactError, match=r"get it anew|get the model anew"):
            read(stored)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("file", [MODEL, WEIGHTS, CALIBRATION])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused_by_name(stored: Path, file: str, share: float) -> None:
    whole = (stored / file).read_bytes()
    (stored / file).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ArtifactError, match=file):
        read(stored)


@pytest.mark.parametrize("file", [MODEL, WEIGHTS])
def test_a_missing_file_is_refused_by_name(stored: Path, file: str) -> None:
    (stored / file).unlink()
    with pytest.raises(ArtifactError, match=file):
        read(stored)


def test_weights_of_another_network_are_refused(stored: Path, tmp_path: Path) -> None:
    net = json.loads((stored / MODEL).read_text())["net"]
    rewrite(stored, net={**net, "growth_rate": 4})
    with pytest.raises(ArtifactError, match=r"model\.json: the model is incomplete or damaged"):
        read(stored)


@pytest.mark.parametrize("field", ["family", "net", "classes", "preprocessing", "weights_sha256", "storage", "about"])
def test_a_model_without_one_of_its_fields_is_refused(stored: Path, field: str) -> None:
    without(stored, field)
    with pytest.raises(ArtifactError, match=f"incomplete or damaged .*{field}"):
        read(stored)


@pytest.mark.parametrize("value", [None, 3, "text", [1], {"a": 1}], ids=str)
@pytest.mark.parametrize("field", ["family", "net", "classes", "preprocessing", "weights_sha256", "about"])
def test_a_field_of_another_kind_is_refused(stored: Path, field: str, value: object) -> None:
    legal = {("preprocessing", None), ("about", "{'a': 1}")}
    if (field, value if value is None else str(value)) in legal:
        (stored / CALIBRATION).unlink()
        read(stored)
        return
    rewrite(stored, **{field: value})
    with pytest.raises(ArtifactError):
        read(stored)


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda net: {**net, "exits": 0}, "describes an impossible model: exits=0"),
        (lambda net: {**net, "depth": 3}, "fields depth are unknown or missing"),
        (lambda net: {k: v for k, v in net.items() if k != "stem"}, "fields stem are unknown or missing"),
    ],
    ids=["impossible value", "unknown field", "missing field"],
)
def test_an_impossible_network_is_refused_with_the_rule_it_breaks(
    stored: Path, change: Callable[[dict[str, Any]], dict[str, Any]], phrase: str
) -> None:
    rewrite(stored, net=change(json.loads((stored / MODEL).read_text())["net"]))
    with pytest.raises(ArtifactError, match=phrase):
        read(stored)


@pytest.mark.parametrize("mean", [["dark"], [[]], [], "0.5"], ids=str)
def test_senseless_preprocessing_is_refused(stored: Path, mean: object) -> None:
    rewrite(stored, preprocessing={"image_size": 16, "mean": mean, "std": [0.25]})
    with pytest.raises(ArtifactError, match=r"model\.json"):
        read(stored)


def test_a_storage_nobody_knows_is_refused(stored: Path) -> None:
    rewrite(stored, storage="fp8")
    with pytest.raises(ArtifactError, match="storage 'fp8'"):
        read(stored)
