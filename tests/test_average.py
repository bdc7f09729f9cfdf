import copy
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from offramp.data.preprocess import Preprocessing
from offramp.data.source import Split
from offramp.train.average import Average
from offramp.train.recipe import Recipe
from offramp.train.trainer import Trainer
from tiny import CONFIG, make_net

DECAY = 0.7
META = torch.device("meta")
"""Stands for a GPU: its tensors hold nothing, so whoever looks at one or sends it one is seen."""


def shaken(net: torch.nn.Module, seed: int) -> None:
    """Other weights and statistics, as after a step."""
    draw = torch.Generator().manual_seed(seed)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=draw))
        else:
            tensor.add_(1)


def test_weights_and_statistics_are_those_of_pytorchs_own_average() -> None:
    net = make_net()
    ours, update = Average(net, DECAY), get_ema_multi_avg_fn(DECAY)  # type: ignore[no-untyped-call]
    theirs = AveragedModel(net, multi_avg_fn=update, use_buffers=True)
    for seed in range(5):
        shaken(net, seed)
        ours.update()
        theirs.update_parameters(net)
    state, wanted = ours.state_dict(), theirs.state_dict()
    assert state.keys() == wanted.keys()
    for name, tensor in wanted.items():
        if tensor.is_floating_point() or name == "n_averaged":
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


def test_whole_numbers_are_copied() -> None:
    net = make_net()
    average = Average(net, DECAY)
    for seed in range(3):
        shaken(net, seed)
        average.update()
    counts = {name: tensor for name, tensor in net.state_dict().items() if not tensor.is_floating_point()}
    assert counts
    assert all(torch.equal(average.module.state_dict()[name], tensor) for name, tensor in counts.items())


def test_the_first_update_is_a_copy_and_the_network_stays_what_it_is() -> None:
    net = make_net()
    average = Average(net, DECAY)
    shaken(net, 0)
    before = copy.deepcopy(net.state_dict())
    average.update()
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert torch.equal(average.module.state_dict()[name], tensor)


def test_an_average_goes_on_from_its_state() -> None:
    net = make_net()
    whole, first = Average(net, DECAY), Average(net, DECAY)
    for seed in range(2):
        shaken(net, seed)
        whole.update()
        first.update()
    second = Average(net, DECAY)
    second.load_state_dict(first.state_dict())
    shaken(net, 2)
    whole.update()
    second.update()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what makes a host wait for its GPU: values asked for, and copies that are waited for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: list[str] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {one.device for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        if META in given and str(func).split(".")[1] in ("_local_scalar_dense", "nonzero", "masked_select"):
            self.waits.append(str(func))
        result = func(*args, **(kwargs or {}))
        places = given | {one.device for one in tree_leaves(result) if isinstance(one, Tensor)}
        if len(places) > 1 and not (kwargs or {}).get("non_blocking"):
            self.waits.append(str(func))
        return result


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema_decay": 0.9},
        {"label_smoothing": 0.1, "clip_norm": 1.0, "accumulate": 2},
        {"cutout": 8, "mixup": 0.2, "lighting": 0.1},
    ],
    ids=["plain", "average", "accumulated and clipped", "augmented"],
)
def test_nothing_in_a_whole_step_waits_for_the_device(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    recipe = Recipe(variant="tiny", source="halves", epochs=9, batch_size=16, learning_rate=0.1, crop_pad=2, **changes)
    samples = Split(torch.zeros(16, 16, 16, 3, dtype=torch.uint8).numpy(), torch.zeros(16, dtype=torch.int64).numpy())
    sgd = torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", mock.Mock(side_effect=lambda *a, **k: sgd(*a, **k | {"fused": False})))
    config = CONFIG.replace(exits=1, image_channels=3, scale_factors=(1,), bottleneck_factors=(1,))
    trainer = Trainer(config.build(), recipe, samples, Preprocessing(16, (0.5,) * 3, (0.2,) * 3), META)
    trainer.advance()  # brings to the device what is brought once
    with Watch() as watch:
        trainer.advance()  # the first of an epoch
    assert watch.waits == []


def test_the_watch_sees_what_waits() -> None:
    with Watch() as watch:
        torch.zeros(3).to(META)
        torch.zeros(3).to(META, non_blocking=True)
        with pytest.raises(RuntimeError):
            torch.zeros(3, device=META).sum().item()
    assert watch.waits == ["aten._to_copy.default", "aten._local_scalar_dense.default"]
