"""What every test file may use."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn

# Properties are checked on the same examples everywhere: a red test is a finding, never bad luck.
settings.register_profile(
    "offramp",
    deadline=None,
    max_examples=25,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("offramp")


@pytest.fixture(autouse=True, scope="session")
def _quick_runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What models are loaded with unless a test says otherwise, and a cache that nobody else has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFRAMP_RUNTIME", "eager")
        patch.setenv("OFFRAMP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny classifier exported for ONNX Runtime; not to be changed."""
    return _exported("onnx", tmp_path_factory)


@pytest.fixture(scope="session")
def torch_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny classifier as programs of torch.export; not to be changed."""
    return _exported("torch-export", tmp_path_factory)


def _exported(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from offramp.export.bundle import export
    from tiny import make_classifier

    if kind == "onnx":
        pytest.importorskip("onnxscript")
    out = tmp_path_factory.mktemp(kind) / "bundle"
    export(make_classifier(), kind, out, measuring_s=0)
    return out


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def shake() -> Callable[[nn.Module], None]:
    """Gives all norms random weights and statistics, as after training; fresh ones do almost nothing in eval mode."""

    def apply(net: nn.Module) -> None:
        draw = torch.Generator().manual_seed(1)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.weight.data, 0.5, 1.5),
                    (module.bias.data, -0.5, 0.5),
                    (module.running_mean, -0.5, 0.5),
                    (module.running_var, 0.5, 1.5),
                ):
                    assert tensor is not None
                    tensor.uniform_(low, high, generator=draw)

    return apply
