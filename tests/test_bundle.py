import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundles import copy_of, edit
from offramp.catalog import entries
from offramp.classifier import Classifier
from offramp.errors import ArtifactError, ConfigError, DataError
from offramp.export.bundle import Format, check_place, export
from offramp_runtime.bundle import CALIBRATION, MANIFEST, Manifest, read_bundle
from tiny import CLASSES, CONFIG, PREPROCESSING, make_classifier

Change = Callable[[dict[str, Any]], object]


def refused(folder: Path) -> str:
    """The one line that says why."""
    with pytest.raises(ArtifactError) as caught:
        read_bundle(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """A bundle to break."""
    return copy_of(bundle, tmp_path)


def test_it_holds_all_that_is_needed_to_answer(bundle: Path) -> None:
    read = read_bundle(bundle)
    classifier = make_classifier()
    manifest, calibration = read.manifest, read.calibration
    assert (manifest.kind, manifest.precision, manifest.identity) == ("onnx", "fp32", classifier.identity)
    assert manifest.classes == CLASSES
    assert manifest.preprocessing.to_json() == PREPROCESSING.to_json()
    assert manifest.costs == classifier.costs
    assert manifest.num_exits == len(manifest.direct_macs) == 3
    assert set(manifest.made_with) == {"offramp", "torch", "onnx", "onnxscript", "onnxruntime"}
    assert calibration is not None
    assert classifier.calibration is not None
    assert np.array_equal(calibration.confidence, classifier.calibration.confidence)
    assert calibration.source == "halves"


def test_it_tells_what_every_stage_reads_and_gives(bundle: Path) -> None:
    graphs = read_bundle(bundle).manifest.graphs
    known = {"images": ["N", 1, 16, 16]}
    for k, graph in enumerate(graphs):
        assert {tensor["name"]: tensor["shape"] for tensor in graph["reads"]}.items() <= known.items()
        assert graph["gives"][0] == {"name": f"logits{k}", "shape": ["N", 4], "layout": "NC", "dtype": "float32"}
        assert all(tensor["layout"] == "NCHW" for tensor in graph["gives"][1:])
        known |= {tensor["name"]: tensor["shape"] for tensor in graph["gives"]}
        assert all((bundle / graph[part]).is_file() for part in ("stage", "direct", "weights"))


def test_the_manifest_comes_back_from_its_plain_values(bundle: Path) -> None:
    plain = read_bundle(bundle).manifest.to_json()
    assert Manifest.from_json(json.loads(json.dumps(plain))).to_json() == plain


def test_bundles_that_differ_have_other_digests(bundle: Path, copy: Path) -> None:
    assert read_bundle(copy).digest == read_bundle(bundle).digest
    edit(copy, lambda stored: stored.update(precision="int8"))
    assert read_bundle(copy).digest != read_bundle(bundle).digest


@pytest.mark.parametrize("name", ["stage-1.onnx", "direct-2.onnx", "weights.bin", CALIBRATION])
def test_a_flipped_bit_is_noticed_in_any_file(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    message = refused(copy)
    assert str(copy / name) in message
    assert "damaged or mixed" in message


@pytest.mark.parametrize(
    "change",
    [
        lambda stored: stored["preprocessing"].update(mean=[0.41]),
        lambda stored: stored["macs"]["cumulative"].__setitem__(0, 1.0),
        lambda stored: stored["classes"].reverse(),
    ],
)
def test_a_changed_value_is_noticed_in_the_manifest(copy: Path, change: Change) -> None:
    edit(copy, change, seal=False)
    message = refused(copy)
    assert str(copy / MANIFEST) in message
    assert "has changed" in message


@pytest.mark.parametrize("latency", [{}, {"sizes": [1]}, 3])
def test_a_latency_table_that_makes_no_sense_is_refused(copy: Path, latency: object) -> None:
    edit(copy, lambda stored: stored.update(latency=latency))
    assert "the manifest is incomplete or damaged" in refused(copy)


@pytest.mark.parametrize("name", ["stage-0.onnx", "weights.bin", CALIBRATION])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert refused(copy).startswith(f"{copy / name}: missing")


def test_a_truncated_file_is_noticed(copy: Path) -> None:
    os.truncate(copy / "weights.bin", 1000)
    assert str(copy / "weights.bin") in refused(copy)


def test_a_bundle_mixed_from_two_is_noticed(copy: Path, tmp_path: Path) -> None:
    other = copy_of(copy, tmp_path / "other")
    (other / "stage-1.onnx").write_bytes((other / "stage-2.onnx").read_bytes())
    edit(other, lambda stored: stored["files"].update({"stage-1.onnx": stored["files"]["stage-2.onnx"]}))
    read_bundle(other)  # whole in itself
    shutil.copy(other / MANIFEST, copy)
    assert "mixed from two" in refused(copy)


def test_a_newer_version_is_refused_by_name(copy: Path) -> None:
    edit(copy, lambda stored: stored.update(version=2))
    assert "offramp-bundle version 2 is newer" in refused(copy)


@pytest.mark.parametrize("content", ['{"format": "offramp-model", "version": 1}', "[]", "{", ""])
def test_a_foreign_or_broken_manifest_is_refused_by_name(copy: Path, content: str) -> None:
    (copy / MANIFEST).write_text(content)
    assert str(copy / MANIFEST) in refused(copy)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    assert refused(tmp_path).startswith(f"{tmp_path}: not a bundle")
    assert refused(tmp_path / "nowhere").startswith(f"{tmp_path / 'nowhere'}: not a bundle")


@pytest.mark.parametrize("name", ["../secret", "stage/../../secret", "/etc/hostname"])
def test_a_file_outside_the_bundle_is_never_opened(copy: Path, name: str) -> None:
    (copy.parent / "secret").write_text("mine")
    edit(copy, lambda stored: stored["files"].update({name: "0" * 64}))
    message = refused(copy)
    assert repr(name) in message
    assert "outside the bundle" in message


@pytest.mark.parametrize(
    "change",
    [
        lambda stored: stored.pop("classes"),
        lambda stored: stored.pop("files"),
        lambda stored: stored.pop("calibration"),
        lambda stored: stored["graphs"].pop(),
        lambda stored: stored["graphs"].clear(),
        lambda stored: stored["graphs"][0].pop("stage"),
        lambda stored: stored["files"].pop("stage-0.onnx"),
        lambda stored: stored["files"].pop("weights.bin"),
        lambda stored: stored["files"].pop(CALIBRATION),
        lambda stored: stored.update(preprocessing={"image_size": "large"}),
        lambda stored: stored.update(preprocessing=None),
        lambda stored: stored.update(files=["stage-0.onnx"]),
        lambda stored: stored["macs"].update(cumulative=["many"]),
    ],
)
def test_a_manifest_that_lacks_something_is_refused(copy: Path, change: Change) -> None:
    edit(copy, change)
    assert "incomplete or damaged" in refused(copy)


@pytest.mark.parametrize("damage", ["text", "other"])
def test_a_calibration_that_is_none_is_refused(copy: Path, damage: str) -> None:
    path = copy / CALIBRATION
    if damage == "text":
        path.write_text("no archive")
    else:
        np.savez(path, confidence=np.zeros((3, 2)))
    edit(copy, lambda stored: stored["files"].update({CALIBRATION: hashlib.sha256(path.read_bytes()).hexdigest()}))
    assert refused(copy).startswith(f"{path}: the calibration is damaged")


def test_a_model_without_calibration_makes_a_bundle_without_one(fake: list[Path], tmp_path: Path) -> None:
    export(make_classifier(calibrated=False), "fake", tmp_path / "out")
    assert read_bundle(tmp_path / "out").calibration is None
    assert not (tmp_path / "out" / CALIBRATION).exists()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Puts a format that is quick to write into the catalog; fills the list with the folders it wrote to."""
    written: list[Path] = []

    def write(subject: Any, folder: Path) -> list[dict[str, Any]]:
        written.append(folder)
        for k in range(CONFIG.exits):
            (folder / f"stage-{k}").write_text(f"stage {k}")
        return [{"stage": f"stage-{k}", "direct": None, "reads": [], "gives": []} for k in range(CONFIG.exits)]

    monkeypatch.setitem(entries("export", "FORMATS"), "fake", Format(("fp32",), write, ()))
    return written


def test_an_earlier_bundle_is_replaced(fake: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    export(make_classifier(seed=1), "fake", out)
    export(make_classifier(), "fake", out)
    assert read_bundle(out).manifest.identity == make_classifier().identity
    assert sorted(path.name for path in out.parent.iterdir()) == ["out"]
    assert oct(out.stat().st_mode)[-3:] == "755"


def test_a_bundle_with_something_beside_it_is_not_replaced(fake: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(make_classifier(), "fake", out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"holds notes\.txt, which is no part of the bundle there"):
        export(make_classifier(), "fake", out)
    assert (out / "notes.txt").read_text() == "mine"


def test_if_the_new_bundle_cannot_be_put_in_place_the_old_one_stays(
    fake: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export(make_classifier(seed=1), "fake", out)
    before, rename = read_bundle(out).digest, Path.rename

    def fails(self: Path, target: Path) -> Path:
        if target == out and (self / MANIFEST).exists() and read_bundle(self).digest != before:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(ArtifactError, match="cannot be written"):
        export(make_classifier(), "fake", out)
    assert read_bundle(out).digest == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("kind", "measuring_s"), [("fake", 1.0), ("onnx", 0.0)])
def test_threads_of_a_bundle_that_is_not_measured_are_refused(
    fake: list[Path], tmp_path: Path, kind: str, measuring_s: float
) -> None:
    with pytest.raises(ConfigError, match="threads=2: only for a bundle that is measured"):
        export(make_classifier(), kind, tmp_path / "out", threads=2, measuring_s=measuring_s)


def test_an_empty_folder_may_be_written_to(fake: list[Path], tmp_path: Path) -> None:
    export(make_classifier(), "fake", tmp_path)
    assert read_bundle(tmp_path).manifest.kind == "fake"


@pytest.mark.parametrize("holds", ["notes.txt", MANIFEST])
def test_what_is_no_bundle_is_never_replaced(fake: list[Path], tmp_path: Path, holds: str) -> None:
    (tmp_path / holds).write_text("{}")
    for refuse in (lambda: export(make_classifier(), "fake", tmp_path), lambda: check_place(tmp_path)):
        with pytest.raises(ArtifactError, match="exists and is no whole bundle; choose another --out"):
            refuse()
    assert (tmp_path / holds).read_text() == "{}"
    assert fake == []


def test_a_file_is_never_replaced(fake: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ArtifactError, match="no whole bundle"):
        export(make_classifier(), "fake", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_an_export_that_fails_midway_leaves_nothing_and_keeps_the_earlier_bundle(
    fake: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(make_classifier(), "fake", tmp_path / "out")
    before = read_bundle(tmp_path / "out").digest

    def fails(subject: Any, folder: Path) -> list[dict[str, Any]]:
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(entries("export", "FORMATS"), "fake", Format(("fp32",), fails, ()))
    for out in ("out", "new"):
        with pytest.raises(ArtifactError, match=f"{out}: cannot be written \\(No space left on device\\)"):
            export(make_classifier(), "fake", tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert read_bundle(tmp_path / "out").digest == before


def test_a_folder_that_cannot_be_made_is_one_line(fake: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="cannot be written"):
        export(make_classifier(), "fake", tmp_path / "file" / "deep" / "out")


def test_a_format_nobody_knows_is_refused_with_near_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no export format is called 'onx'; did you mean 'onnx'"):
        export(make_classifier(), "onx", tmp_path / "out")


def test_a_precision_the_format_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format 'onnx' has no bf16; take 'openvino', or one of fp32, int8"):
        export(make_classifier(), "onnx", tmp_path / "out", precision="bf16")


def test_int8_of_a_model_that_was_not_quantised_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="offramp calibrate MODEL --precision int8"):
        export(make_classifier(), "onnx", tmp_path / "out", precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_preprocessing_is_refused(fake: list[Path], tmp_path: Path) -> None:
    given = make_classifier(calibrated=False)
    blind = Classifier(given.net, given.classes, None)
    with pytest.raises(DataError, match="does not know what its images went through"):
        export(blind, "fake", tmp_path / "out")
