"""What every test file may use."""

from collections.abc import Callable

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
