"""Bundles where there is no PyTorch, no Pillow and none of this package's own code."""

from pathlib import Path

import numpy as np
import pytest

from bundles import as_kind, run_without
from tiny import images, make_classifier

PREDICT = """
import sys
import numpy as np
import offramp_runtime

model = offramp_runtime.load(sys.argv[1], threads=1)
pixels = np.load(sys.argv[2])
asked = [{}, {"exit": 0}, {"budget": "0.6MMAC"}]
np.savez(sys.argv[3], *[getattr(model.predict(pixels, **how), part) for how in asked for part in ("logits", "exit_index")])
print(*sorted({"torch", "PIL", "offramp", "onnx"} & set(sys.modules)))
"""


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_a_bundle_answers_where_there_is_only_numpy_and_its_runtime(bundle: Path, tmp_path: Path, kind: str) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(kind, kind))
    pixels = images(9)
    np.save(tmp_path / "pixels.npy", pixels)
    folder = as_kind(bundle, tmp_path, kind)
    run_without(("torch", "PIL", "offramp"), PREDICT, folder, tmp_path / "pixels.npy", tmp_path / "out.npz")
    classifier = make_classifier()
    with np.load(tmp_path / "out.npz") as found:
        arrays = [found[name] for name in found.files]
    for number, asked in enumerate(({}, {"exit": 0}, {"budget": "0.6MMAC"})):
        wanted = classifier.predict(pixels, **asked)  # type: ignore[arg-type]
        assert np.abs(arrays[2 * number] - wanted.logits).max() <= 1e-4 * np.abs(wanted.logits).max()
        assert arrays[2 * number + 1].tolist() == wanted.exit_index.tolist()


def test_graphs_that_were_prepared_before_are_opened_without_the_slow_onnx_package(
    bundle: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "pixels.npy", images(1))
    arguments = (bundle, tmp_path / "pixels.npy", tmp_path / "out.npz")
    run_without(("torch", "PIL", "offramp"), PREDICT, *arguments)
    assert run_without(("torch", "PIL", "offramp"), PREDICT, *arguments) == [""]


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import offramp_runtime; print(*({'numpy', 'onnx', 'onnxruntime', 'openvino', 'PIL'} & set(sys.modules)))"
    assert run_without(("torch", "offramp"), code) == [""]


def test_image_files_without_pillow_name_the_extra_and_the_way_out(bundle: Path) -> None:
    code = """
import numpy as np
import offramp_runtime

model = offramp_runtime.load(sys.argv[1], threads=1)
for given in ("image.png", ["image.png"]):
    try:
        model.predict(given)
    except offramp_runtime.MissingExtraError as error:
        print(error)
"""
    lines = run_without(("torch", "PIL", "offramp"), code, bundle)
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("image files and PIL images need PIL, which is not installed; give a uint8 array")
        assert line.endswith("pip install 'offramp-runtime[images]'")


@pytest.mark.parametrize(
    ("kind", "package", "extra"),
    [("onnx", "onnxruntime", "onnx"), ("onnx", "onnx", "onnx"), ("openvino", "openvino", "openvino")],
)
def test_a_runtime_that_is_not_installed_names_the_extra(
    bundle: Path, tmp_path: Path, kind: str, package: str, extra: str
) -> None:
    code = """
import importlib.util
import offramp_runtime

sys.modules[sys.argv[2]] = None
try:
    offramp_runtime.load(sys.argv[1])
except offramp_runtime.MissingExtraError as error:
    print(error)
"""
    (line,) = run_without(("torch", "offramp"), code, as_kind(bundle, tmp_path, kind), package)
    assert f"needs {package}, which is not installed" in line
    assert f"pip install 'offramp-runtime[{extra}]'" in line
