import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import offramp_runtime
from offramp.catalog import entries
from offramp.classifier.folder import save
from offramp.export.bundle import Format
from offramp_runtime.bundle import read_bundle
from tiny import CONFIG, make_classifier, offramp

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated model's folder."""
    folder = tmp_path_factory.mktemp("export") / "model"
    save(make_classifier(), folder)
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has formats of these names write something that is no graph, but at once."""

    def write(_subject: Any, folder: Path) -> list[dict[str, Any]]:
        for k in range(CONFIG.exits):
            (folder / f"stage-{k}").write_text(f"stage {k}")
        return [{"stage": f"stage-{k}", "direct": None, "reads": [], "gives": []} for k in range(CONFIG.exits)]

    def fake(*names: str) -> None:
        for name in names:
            monkeypatch.setitem(entries("export", "FORMATS"), name, Format(("fp32", "int8"), write, ("torch",)))

    return fake


def test_a_model_is_exported_and_it_is_said_how_to_run_it(
    model: Path, tmp_path: Path, capsys: Capture, quick: Callable[..., None]
) -> None:
    quick("onnx")
    out = tmp_path / "bundle"
    assert offramp("export", model, "--no-measure", "--out", out) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0].startswith(f"wrote {out}: onnx, fp32, 3 stages")
    assert f"offramp_runtime.load('{out}').predict" in said.out
    assert said.err == ""
    bundle = read_bundle(out)
    assert bundle.manifest.identity == make_classifier().identity
    assert bundle.calibration is not None


def test_what_its_stages_take_goes_along_and_is_used_there(
    model: Path, bundle: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = read_bundle(bundle).manifest.graphs

    def write(_subject: Any, folder: Path) -> Any:
        for path in bundle.glob("*.onnx"):
            shutil.copy(path, folder)
        shutil.copy(bundle / "weights.bin", folder)
        return graphs

    monkeypatch.setitem(entries("export", "FORMATS"), "onnx", Format(("fp32",), write, ("torch",)))
    out = tmp_path / "bundle"
    assert offramp("export", model, "--threads", "1", "--out", out) == 0
    assert re.search(
        r"measured here in runtime onnx: one image by itself takes [\d.]+ ms to exit 0, [\d.]+ ms to exit 2",
        capsys.readouterr().out,
    )
    latency = read_bundle(out).manifest.latency
    assert latency is not None
    assert latency.sizes == (1, 2, 4, 8, 16, 32, 64, 128, 256)
    assert offramp_runtime.load(out, threads=1).latencies() == latency
    assert offramp_runtime.load(out, threads=2).latencies(0.1) != latency


def test_what_this_package_does_not_run_is_not_said_to_run(
    model: Path, tmp_path: Path, capsys: Capture, quick: Callable[..., None]
) -> None:
    quick("torch-export")
    assert offramp("export", model, "--format", "torch-export", "--out", tmp_path / "bundle") == 0
    assert "offramp_runtime.load" not in capsys.readouterr().out


def test_json_holds_the_whole_manifest(
    model: Path, tmp_path: Path, capsys: Capture, quick: Callable[..., None]
) -> None:
    quick("openvino")
    out = tmp_path / "bundle"
    assert offramp("export", model, "--format", "openvino", "--no-measure", "--out", out, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["bundle"], said["format"], said["precision"]) == (str(out), "openvino", "fp32")
    assert said["bytes"] == sum(path.stat().st_size for path in out.iterdir())
    manifest = read_bundle(out).manifest.to_json()
    assert {name: said[name] for name in manifest} == json.loads(json.dumps(manifest))


def test_exporting_again_replaces_the_bundle(model: Path, tmp_path: Path, quick: Callable[..., None]) -> None:
    quick("onnx")
    for _ in range(2):
        assert offramp("export", model, "--no-measure", "--out", tmp_path / "bundle") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_model_without_calibration_of_that_precision_is_exported_with_a_remark(
    model: Path, tmp_path: Path, capsys: Capture, quick: Callable[..., None], options: tuple[str, ...]
) -> None:
    quick("onnx")
    out = tmp_path / "bundle"
    assert offramp("export", model, "--precision", "int8", "--no-measure", "--out", out, *options) == 0
    assert "no calibration of int8 went along, so budgets will be refused" in capsys.readouterr().err
    assert read_bundle(tmp_path / "bundle").calibration is None


@pytest.mark.slow
def test_the_real_thing_takes_the_command_as_it_stands_in_the_docs(model: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    assert offramp("export", model, "--format", "onnx", "--no-measure", "--out", out) == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(path.name for path in bundle.iterdir())
    assert [name for name in names if (out / name).read_bytes() != (bundle / name).read_bytes()] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onx"], "no export format is called 'onx'; did you mean 'onnx'?"),
        (["--precision", "fp16"], "precision 'fp16': choose one of fp32, bf16, int8"),
        (["--precision", "bf16"], "format 'onnx' has no bf16; take 'openvino', or one of fp32, int8"),
        (["--precision", "int8"], "offramp calibrate MODEL --precision int8"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_exported_is_refused_in_one_line_and_leaves_nothing(
    model: Path, tmp_path: Path, capsys: Capture, arguments: list[str], message: str
) -> None:
    assert offramp("export", model, *arguments, "--out", tmp_path / "bundle") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_never_replaced(model: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert offramp("export", model, "--out", tmp_path) == 2
    assert "exists and is no whole bundle; choose another --out" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_model_nobody_knows_is_refused(tmp_path: Path, capsys: Capture) -> None:
    assert offramp("export", "cifr10", "--out", tmp_path / "bundle") == 2
    assert "did you mean 'cifar10'" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_exporter_names_the_extra(
    model: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert offramp("export", model, "--out", tmp_path / "bundle") == 2
    assert (
        f"needs {package}, which is not installed; install it: pip install 'offramp[onnx]'" in capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []
