import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bundles import assert_close
from offramp.catalog import entries, lookup
from offramp.engine.graphs import alignment
from offramp.engine.onnx import graphs_of
from offramp.engine.opening import RuntimeSpec, Subject, open_runtime, runtimes
from offramp.errors import ArtifactError, ConfigError, MissingExtraError, OfframpError
from offramp_runtime.precision import Precision, check_precision
from tiny import make_net

NET = make_net()


def subject(precision: Precision = "fp32", device: str = "cpu", int8_graph: Path | None = None) -> Subject:
    return Subject(NET, "cafe" * 16, precision, 1, torch.device(device), int8_graph)


def refused(name: str, asked: Subject, kind: type[OfframpError]) -> str:
    with pytest.raises(OfframpError) as caught:
        open_runtime(name, asked)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_runtime_is_found_by_its_name() -> None:
    assert {"eager", "native", "onnx", "openvino"} <= set(runtimes())


@pytest.mark.parametrize("name", ["fp32", "bf16", "int8"])
def test_a_precision_is_known_by_its_name(name: str) -> None:
    assert check_precision(name) == name


def test_a_precision_nobody_knows_is_refused_with_all_there_are() -> None:
    with pytest.raises(ConfigError, match="precision 'fp16': choose one of fp32, bf16, int8"):
        check_precision("fp16")


def test_a_runtime_nobody_knows_is_refused_with_near_names() -> None:
    assert "did you mean 'onnx'" in refused("onx", subject(), ConfigError)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("onnx", "onnx"), ("onnx", "onnxruntime"), ("onnx", "onnxscript"),
        ("openvino", "openvino"), ("openvino", "onnx"), ("openvino", "onnxscript"),
        ("native", "onnx"), ("native", "onnxscript"),
    ],
)  # fmt: skip
def test_a_missing_package_is_named_with_its_extra_and_nothing_else_runs_instead(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = refused(name, subject(), MissingExtraError)
    assert f"runtime '{name}' needs {package}, which is not installed" in message
    assert f"pip install 'offramp[{'onnx' if name == 'native' else name}]'" in message


@pytest.mark.parametrize(("name", "precision"), [("onnx", "bf16"), ("eager", "int8")])
def test_a_precision_a_runtime_lacks_is_refused_with_those_that_have_it(name: str, precision: Precision) -> None:
    message = refused(name, subject(precision, int8_graph=Path("int8.onnx")), ConfigError)
    having = [other for other, spec in runtimes().items() if precision in spec.precisions]
    assert message.startswith(f"runtime '{name}' has no {precision}; take ")
    assert all(f"'{other}'" in message for other in having)


@pytest.mark.parametrize("name", ["native", "onnx", "openvino"])
def test_runtimes_of_the_cpu_are_refused_on_a_gpu(name: str) -> None:
    pytest.importorskip({"onnx": "onnxruntime", "native": "onnx"}.get(name, name))
    pytest.importorskip("onnxscript")
    message = refused(name, subject(device="cuda"), ConfigError)
    assert message == f"runtime '{name}' runs on the CPU, not on cuda; take 'eager' or 'compiled' there"


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_int8_of_a_model_that_was_not_quantised_names_the_command(name: str) -> None:
    assert "offramp calibrate MODEL --precision int8" in refused(name, subject("int8"), ArtifactError)


def test_other_families_are_refused_in_native() -> None:
    net = lookup("network", "resnet-cifar-small", "nets", "VARIANTS").build().eval()
    asked = Subject(net, "cafe" * 16, "fp32", 1, torch.device("cpu"))
    assert "runs networks of the family msdnet, not of resnet; take" in refused("native", asked, ConfigError)


def test_native_without_a_compiler_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "CC names no-such-compiler, which is not there" in refused("native", subject(), ConfigError)


def test_bf16_in_openvino_is_refused_on_a_cpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offramp_runtime.machine.cpu_features", lambda: frozenset({"avx2"}))
    assert "needs a CPU with avx512_bf16 or amx_bf16" in refused("openvino", subject("bf16"), ConfigError)


@pytest.mark.parametrize(
    ("features", "precision", "multiple"),
    [
        ({"avx2"}, "fp32", 8),
        ({"avx2"}, "int8", 8),
        ({"avx512f"}, "fp32", 1),
        ({"avx512f"}, "bf16", 1),
        ({"avx512f"}, "int8", 8),
    ],
)
def test_channels_are_padded_where_blocks_of_8_are_computed(
    features: set[str], precision: Precision, multiple: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offramp.engine.graphs.cpu_features", lambda: frozenset(features))
    assert alignment(precision) == multiple


def test_graphs_of_another_padding_are_not_taken_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path))
    widths = []
    for features in ({"avx2"}, {"avx512f"}, {"avx2"}):
        monkeypatch.setattr("offramp.engine.graphs.cpu_features", lambda features=features: frozenset(features))
        widths.append(sum(array.size for array in weights_in(graphs_of(subject()))))
    assert widths[0] == widths[2] > widths[1]
    assert len(list((tmp_path / "graphs").iterdir())) == 2


def weights_in(folder: Path) -> list[Any]:
    import onnx

    model = onnx.load(folder / "stage-0.onnx")
    return [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]


def test_what_a_runtime_says_against_itself_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_subject: Subject) -> None:
        raise AssertionError

    reason = MissingExtraError("no luck")
    spec = RuntimeSpec(("fp32",), never, lambda _subject: reason)  # type: ignore[arg-type]
    monkeypatch.setitem(entries("engine", "RUNTIMES"), "unlucky", spec)
    with pytest.raises(MissingExtraError) as caught:
        open_runtime("unlucky", subject())
    assert caught.value is reason


def test_eager_opens_anywhere_and_answers_as_the_network_does() -> None:
    images = torch.randn(3, 1, 16, 16)
    runtime = open_runtime("eager", subject())
    state = runtime.start(images)
    with torch.no_grad():
        wanted = NET(images).numpy()
    for k in range(3):
        state, logits = runtime.step(k, state)
        assert_close(logits.numpy(), wanted[k])
        assert_close(runtime.direct(k, images).numpy(), wanted[k])
