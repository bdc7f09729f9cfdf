from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

from bundles import network_input, run_all
from offramp.engine import int8
from offramp.errors import DataError
from offramp.nets.base import NetConfig
from offramp.nets.condensenet import CondenseNetConfig
from offramp.nets.densenet import DenseNetConfig
from offramp.nets.ensemble import EnsembleConfig
from offramp.nets.resnet import ResNetConfig
from offramp_runtime import openvino_core
from offramp_runtime.stages import Stages
from tiny import make_net

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from offramp.engine.graphs import write_whole

    path = tmp_path_factory.mktemp("plain") / "plain.onnx"
    write_whole(make_net(), path)
    return path


@pytest.fixture(scope="module")
def quantised(plain: Path) -> Path:
    path = plain.with_name("int8.onnx")
    int8.quantize(plain, calibration(), path)
    return path


@pytest.fixture(scope="module")
def stages(quantised: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from offramp.engine.graphs import write_graphs

    folder = tmp_path_factory.mktemp("stages")
    write_graphs(make_net(), folder, "int8", quantised)
    return folder


def calibration() -> list[NDArray[np.float32]]:
    return [network_input(40, seed=1), network_input(13, seed=2)]


def in_onnxruntime(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda given: np.stack(session.run(None, {"images": given}))


def in_openvino(path: Path) -> Run:
    pytest.importorskip("openvino")
    model = openvino_core.core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda given: np.stack(list(model(given).values()))


def relative(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def constants(model: Any) -> dict[str, NDArray[Any]]:
    return {constant.name: onnx.numpy_helper.to_array(constant) for constant in model.graph.initializer}


@pytest.mark.parametrize("run", [in_onnxruntime, in_openvino])
def test_answers_stay_nearly_what_they_were_in_both_runtimes(
    plain: Path, quantised: Path, run: Callable[[Path], Run]
) -> None:
    given = network_input(200)
    wanted, found = in_onnxruntime(plain)(given), run(quantised)(given)
    assert np.abs(found - wanted).mean() < 0.03 * np.abs(wanted).max()
    assert (found.argmax(-1) == wanted.argmax(-1)).mean() > 0.94


def test_both_runtimes_compute_the_same(quantised: Path) -> None:
    given = network_input(50)
    # Where a value lies between two steps, one may round up what the other rounds down; how often, the CPU decides.
    assert relative(in_openvino(quantised)(given), in_onnxruntime(quantised)(given)) < 0.02


def test_no_weight_needs_more_than_seven_bits(quantised: Path) -> None:
    weights = [
        value for value in constants(onnx.load(quantised)).values() if value.dtype == np.int8 and value.ndim == 4
    ]
    assert len(weights) > 20
    assert all(np.abs(value.astype(int)).max() <= 64 for value in weights)


def test_all_convolutions_but_the_one_that_reads_images_and_no_classifier_are_quantised(quantised: Path) -> None:
    model = onnx.load(quantised)
    maker = {name: node.op_type for node in model.graph.node for name in node.output}
    of = {kind: [node for node in model.graph.node if node.op_type == kind] for kind in ("Conv", "Gemm")}
    floats = [node for node in of["Conv"] if maker.get(node.input[1]) != "DequantizeLinear"]
    assert [node.input[0] for node in floats] == ["images"]
    assert len(of["Gemm"]) == 3
    assert all(node.input[1] not in maker for node in of["Gemm"])


def test_what_is_joined_has_one_scale_so_that_joining_rounds_nothing(quantised: Path) -> None:
    model = onnx.load(quantised)
    maker = {name: node for node in model.graph.node for name in node.output}
    reader = {name: node for node in model.graph.node for name in node.input}
    values = constants(model)
    joins = [node for node in model.graph.node if node.op_type == "Concat"]
    assert joins
    for node in joins:
        around = [maker[name] for name in node.input] + [reader[node.output[0]]]
        assert len({values[dequantise.input[1]].item() for dequantise in around}) == 1


def test_corrected_biases_keep_the_mean_of_logits_better(
    plain: Path, quantised: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "_correct_biases", lambda *_: None)
    int8.quantize(plain, calibration(), tmp_path / "uncorrected.onnx")
    given = np.concatenate(calibration())
    wanted = in_onnxruntime(plain)(given).mean(1)
    corrected, uncorrected = (
        np.abs(in_onnxruntime(path)(given).mean(1) - wanted).mean()
        for path in (quantised, tmp_path / "uncorrected.onnx")
    )
    assert corrected < uncorrected


def test_stages_hand_over_bytes_and_give_logits_as_float32(stages: Path) -> None:
    handed = []
    for k in range(3):
        logits, *more = onnx.load(stages / f"stage-{k}.onnx", load_external_data=False).graph.output
        assert logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        handed += [output.type.tensor_type for output in more]
    assert handed
    assert all(each.elem_type == onnx.TensorProto.UINT8 for each in handed)
    assert all(len(each.shape.dim) == 4 for each in handed)


def test_stages_in_openvino_answer_as_the_whole_graph(quantised: Path, stages: Path) -> None:
    pytest.importorskip("openvino")
    from offramp_runtime.openvino import open_stages

    check_stages(open_stages(stages, 3, threads=1, precision="int8"), in_openvino(quantised))


def test_stages_in_onnx_runtime_answer_as_the_whole_graph(quantised: Path, stages: Path) -> None:
    from offramp_runtime.onnx import open_stages

    check_stages(open_stages(stages, 3, threads=1), in_onnxruntime(quantised))


def check_stages(opened: Stages[Any], whole: Run) -> None:
    for count in (1, 7):
        given = network_input(count)
        wanted = whole(given)
        assert relative(run_all(opened, given), wanted) < 1e-5
        assert relative(np.stack([opened.direct(k, given) for k in range(3)]), wanted) < 1e-5


def test_the_same_images_give_the_same_file(plain: Path, quantised: Path, tmp_path: Path) -> None:
    int8.quantize(plain, iter(calibration()), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == quantised.read_bytes()


@pytest.mark.parametrize("batches", [[], [network_input(0)]])
def test_without_images_nothing_is_written(plain: Path, tmp_path: Path, batches: list[NDArray[np.float32]]) -> None:
    with pytest.raises(DataError, match=r"no images to quantise with.*give at least one"):
        int8.quantize(plain, batches, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_channels_of_a_group_meet_only_the_means_of_their_group(groups: int) -> None:
    draw = np.random.default_rng(0)
    per_input, mean = draw.standard_normal((8, 8 // groups)), draw.standard_normal(8)
    wanted = [
        sum(per_input[out, i] * mean[out // (8 // groups) * (8 // groups) + i] for i in range(8 // groups))
        for out in range(8)
    ]
    assert int8._grouped(per_input, mean) == pytest.approx(np.array(wanted))


DENSE = DenseNetConfig(layers=(2, 2), growth_rates=(4, 4), channels=8, image_channels=1, image_size=16, num_classes=4)
CONDENSE = CondenseNetConfig(
    layers=(2, 2), growth_rates=(8, 16), groups=2, condense_factor=2, groups_3x3=2, image_channels=1, image_size=16,
    num_classes=4,
)  # fmt: skip
FAMILY: dict[str, NetConfig] = {
    "densenet": DENSE,
    "densenet-mc": DENSE.replace(exit_layers=(1, 3)),
    "condensenet": CONDENSE,
    "grouped": CONDENSE.replace(forms=("grouped",) * 4),
    "folded": CONDENSE.replace(forms=("folded",) * 4),
    "light": CONDENSE.replace(reduction=0.5),
    "resnet": ResNetConfig(
        blocks=(1, 1), widths=(8, 16), channels=8, preactivation=True, image_channels=1, image_size=16, num_classes=4
    ),
    "ensemble": EnsembleConfig.of(DENSE, DENSE),
}


@pytest.mark.parametrize("name", FAMILY)
def test_the_whole_family_is_quantised_and_answers_nearly_as_before(
    name: str, shake: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    from offramp.engine.graphs import write_graphs, write_whole

    net = FAMILY[name].build()
    shake(net)
    net.eval()
    write_whole(net, tmp_path / "plain.onnx")
    int8.quantize(tmp_path / "plain.onnx", calibration(), tmp_path / "int8.onnx")
    given = network_input(5)
    before = in_onnxruntime(tmp_path / "plain.onnx")(given)
    for run in (in_onnxruntime, in_openvino):
        after = run(tmp_path / "int8.onnx")(given)
        assert np.abs(after - before).max() <= 0.25 * np.abs(before).max()
        assert not np.array_equal(after, before)
    (tmp_path / "cut").mkdir()
    write_graphs(net, tmp_path / "cut", "int8", tmp_path / "int8.onnx")
    assert (tmp_path / "cut" / f"stage-{net.num_exits - 1}.onnx").is_file()


def test_what_a_norm_reads_is_joined_as_floats_that_keep_ranges_of_their_own(
    shake: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    from offramp.engine.graphs import write_whole

    net = FAMILY["densenet"].build()
    shake(net)
    write_whole(net.eval(), tmp_path / "plain.onnx")
    int8.quantize(tmp_path / "plain.onnx", calibration(), tmp_path / "int8.onnx")
    model = onnx.load(tmp_path / "int8.onnx")
    joined = [node.output[0] for node in model.graph.node if node.op_type == "Concat"]
    readers = [node.op_type for node in model.graph.node for name in node.input if name in joined]
    assert readers
    assert "QuantizeLinear" not in readers
    values = constants(model)
    scales = [node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len({values[scale].item() for scale in scales}) == len(scales)
