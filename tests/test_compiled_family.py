"""What PyTorch's compiler and several processes make of networks other than MSDNet; minutes."""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

import offramp
from offramp.classifier import Classifier
from offramp.nets.condensenet import CondenseNetConfig
from offramp.nets.densenet import DenseNetConfig
from offramp.nets.ensemble import EnsembleConfig
from offramp.nets.recompute import set_recompute
from offramp.nets.resnet import ResNetConfig
from tiny import CLASSES, PREPROCESSING, images

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),  # of what the compiler imports, once a process
]
SHARED: dict[str, Any] = {"image_channels": 1, "image_size": 16, "num_classes": 4}
DENSE = DenseNetConfig(layers=(2, 2), growth_rates=(4, 4), channels=8, **SHARED)
RESIDUAL = ResNetConfig(blocks=(1, 1), widths=(4, 8), channels=4, **SHARED)
GROUPED = CondenseNetConfig(layers=(1, 1), growth_rates=(4, 8), learned=False, reduction=0.5, **SHARED)


@pytest.mark.parametrize("config", [EnsembleConfig.of(RESIDUAL, DENSE), GROUPED], ids=["ensemble", "grouped"])
def test_compiled_stages_answer_as_the_network_does(
    config: Any, shake: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    net = config.build()
    shake(net)
    Classifier(net.eval(), CLASSES, PREPROCESSING).save(tmp_path / "model")
    expected = offramp.load(tmp_path / "model", runtime="eager")
    compiled = offramp.load(tmp_path / "model", runtime="compiled")
    for count in (1, 5):
        pixels = images(count)
        wanted, found = expected.predict(pixels), compiled.predict(pixels)
        assert found.logits == pytest.approx(wanted.logits, abs=1e-4)
        assert compiled.predict(pixels, deadline_ms=60_000).logits == pytest.approx(wanted.logits, abs=1e-4)


def gradients(mode: str, wrap: Callable[[nn.Module], Any]) -> tuple[Tensor, list[int]]:
    """Of a second step, and how many batches the norms have seen."""
    torch.manual_seed(0)
    net = DENSE.build()
    set_recompute(net, mode)
    run = wrap(net)
    for _ in range(2):
        net.zero_grad()
        torch.autograd.backward(run(torch.randn(6, 1, 16, 16)).square().mean())
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    seen = [int(norm.num_batches_tracked) for norm in norms]  # type: ignore[arg-type]
    return torch.cat([weight.grad.flatten() for weight in net.parameters() if weight.grad is not None]), seen


@pytest.mark.parametrize("mode", ["layers", "all"])
def test_compiled_training_recomputes_to_the_same_gradients(mode: str) -> None:
    plain, _ = gradients("none", lambda net: net)
    ours, seen = gradients(mode, lambda net: torch.compile(net, dynamic=False))
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)
    assert set(seen) == {2}


def _train_together(rank: int, port: int, mode: str, out: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    try:
        found, seen = gradients(mode, DistributedDataParallel)
    finally:
        # Threads of gloo are still at work for a wrapped network, and end a process that leaves before them.
        gc.collect()
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    if rank == 0:
        torch.save({"gradients": found, "seen": seen}, out)


@pytest.mark.parametrize("mode", ["layers", "all"])
def test_processes_that_train_together_recompute_to_the_same_gradients(mode: str, tmp_path: Path) -> None:
    out = tmp_path / "found"
    spawn(_train_together, (29_517 + (mode == "all"), mode, str(out)), nprocs=2)  # type: ignore[no-untyped-call]
    found = torch.load(out, weights_only=True)
    plain, _ = gradients("none", lambda net: net)  # both processes draw the same images, so that their mean is this
    torch.testing.assert_close(found["gradients"], plain, rtol=1e-5, atol=1e-7)
    assert set(found["seen"]) == {2}
