import importlib.util
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bundles import assert_close, expected, network_input, run_without
from offramp.catalog import entries
from offramp.errors import MissingExtraError
from offramp.export.bundle import export
from offramp.export.programs import prepared
from offramp_runtime.bundle import read_bundle
from tiny import make_classifier

EXECUTORCH = importlib.util.find_spec("executorch") is not None

PLAIN = """
import json
import numpy as np
import torch
from pathlib import Path

bundle, out = Path(sys.argv[1]), sys.argv[2]
graphs = json.loads((bundle / "manifest.json").read_text())["graphs"]
programs = {
    graph[part]: torch.export.load(bundle / graph[part]).module() for graph in graphs for part in ("stage", "direct")
}
found = {}
for count in map(int, sys.argv[3:]):
    images = torch.from_numpy(np.load(bundle.parent / f"images{count}.npy"))
    state = [images]
    for k, graph in enumerate(graphs):
        logits, *state = programs[graph["stage"]](*state)
        assert [["N", *part.shape[1:]] for part in state] == [part["shape"] for part in graph["gives"][1:]]
        (direct,) = programs[graph["direct"]](images)
        found[f"stage{k}_{count}"], found[f"direct{k}_{count}"] = logits.detach().numpy(), direct.detach().numpy()
np.savez(out, **found)
"""


def test_there_are_the_formats_the_command_names() -> None:
    assert set(entries("export", "FORMATS")) == {"onnx", "openvino", "torch-export", "executorch"}


def test_plain_pytorch_runs_the_programs_of_torch_export(torch_bundle: Path, tmp_path: Path) -> None:
    given = {count: network_input(count) for count in (1, 7)}
    for count, images in given.items():
        np.save(torch_bundle.parent / f"images{count}.npy", images)
    run_without(("offramp", "offramp_runtime"), PLAIN, torch_bundle, tmp_path / "out.npz", *given)
    with np.load(tmp_path / "out.npz") as found:
        for count, images in given.items():
            for k, wanted in enumerate(expected(images)):
                assert_close(found[f"stage{k}_{count}"], wanted)
                assert_close(found[f"direct{k}_{count}"], wanted)


def test_a_stage_reads_what_the_one_before_gives_in_its_order(torch_bundle: Path) -> None:
    given = [{"name": "images", "shape": ["N", 1, 16, 16], "layout": "NCHW", "dtype": "float32"}]
    for k, graph in enumerate(read_bundle(torch_bundle).manifest.graphs):
        assert graph["reads"] == given
        assert graph["gives"][0] == {"name": f"logits{k}", "shape": ["N", 4], "layout": "NC", "dtype": "float32"}
        given = graph["gives"][1:]
    assert given == []


def test_a_program_holds_only_weights_that_it_uses(torch_bundle: Path) -> None:
    net = make_classifier().net
    whole = sum(4 * weight.numel() for weight in net.parameters())
    sizes = [(torch_bundle / f"stage-{k}.pt2").stat().st_size for k in range(3)]
    assert max(sizes) < whole / 2
    assert sum(sizes) < whole * 1.2


def test_programs_do_not_tell_where_they_were_made(torch_bundle: Path) -> None:
    here = str(Path(__file__).parent.parent).encode()
    for path in torch_bundle.glob("*.pt2"):
        with zipfile.ZipFile(path) as archive:
            assert not [name for name in archive.namelist() if here in archive.read(name)]


def test_exporting_leaves_the_network_as_it_was(torch_bundle: Path) -> None:
    classifier = make_classifier()
    before = classifier.identity, classifier.net.training
    net = prepared(classifier.net)
    for weight in net.parameters():
        weight.data.zero_()
    assert (classifier.identity, classifier.net.training) == before


def test_a_missing_executorch_names_the_extra_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(MissingExtraError, match=r"needs executorch, .*pip install 'offramp\[mobile\]'"):
        export(make_classifier(), "executorch", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not EXECUTORCH, reason="executorch is not installed")
def test_executorch_runs_one_program_per_stage(tmp_path: Path) -> None:
    code = """
import json
import numpy as np
import torch
from pathlib import Path
from executorch.runtime import Runtime

bundle = Path(sys.argv[1])
graphs = json.loads((bundle / "manifest.json").read_text())["graphs"]
found = []
for image in torch.from_numpy(np.load(bundle.parent / "images.npy")):
    state = [image[None]]
    for graph in graphs:
        assert [list(part.shape) for part in state] == [part["shape"] for part in graph["reads"]]
        logits, *state = Runtime.get().load_program(bundle / graph["stage"]).load_method("forward").execute(state)
        found.append(logits.numpy().copy())
np.save(bundle.parent / "out.npy", np.stack(found))
"""
    export(make_classifier(), "executorch", tmp_path / "bundle")
    given = network_input(3)
    np.save(tmp_path / "images.npy", given)
    run_without(("offramp", "offramp_runtime"), code, tmp_path / "bundle")
    found = np.load(tmp_path / "out.npy").reshape(3, 3, 4).transpose(1, 0, 2)
    assert_close(found, expected(given))
    graphs = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["graphs"]
    assert [graph["direct"] for graph in graphs] == [None] * 3
