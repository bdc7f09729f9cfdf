"""Runtime ``eager``."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from offramp.engine.eager import EagerRuntime
from offramp.engine.opening import Subject, open_runtime, runtimes
from offramp.errors import ConfigError
from offramp.nets.folding import ConvReLU
from offramp.nets.msdnet import MSDNetConfig
from offramp.runtimes import Cancellation, DirectRuntime, InterruptibleRuntime
from tiny import make_net

CPU = torch.device("cpu")
SUBJECT = Subject(make_net(), "of these weights", "fp32", 1, CPU)


@pytest.fixture
def runtime() -> EagerRuntime:
    return EagerRuntime(make_net(), "fp32", CPU)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def expected(given: Tensor) -> Tensor:
    """Logits (K, N, C)."""
    logits: Tensor = make_net()(given)
    return logits


def staged(runtime: Any, given: Tensor) -> Tensor:
    """Logits (K, N, C) of one stage after the other."""
    state = runtime.start(given)
    every = []
    for k in range(runtime.num_exits):
        state, logits = runtime.step(k, state)
        every.append(logits)
    return torch.stack(every)


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> None:
    assert found.dtype == torch.float32
    assert found.shape == wanted.shape
    assert found.numel() == 0 or (found - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_it_is_found_by_name_and_can_be_interrupted() -> None:
    runtime = open_runtime("eager", SUBJECT)
    assert isinstance(runtime, EagerRuntime)
    assert isinstance(runtime, DirectRuntime)
    assert isinstance(runtime, InterruptibleRuntime)
    assert runtime.num_exits == 3


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
def test_it_answers_as_the_network_does(runtime: EagerRuntime, count: int) -> None:
    given = images(count)
    wanted = expected(given)
    close(staged(runtime, given), wanted)
    for k in range(3):
        close(runtime.direct(k, given), wanted[k])


def test_images_in_either_layout_get_the_same_answers(runtime: EagerRuntime) -> None:
    net = MSDNetConfig(exits=2, base=1, step=1, channels=4, growth_rate=2, image_size=16).build().eval()
    coloured = EagerRuntime(net, "fp32", CPU)
    given = torch.randn(3, 3, 16, 16)
    close(staged(coloured, given), staged(coloured, given.contiguous(memory_format=torch.channels_last)))


def test_in_bf16_it_answers_nearly_so_and_in_float32(shake: Callable[[nn.Module], None]) -> None:
    halved = EagerRuntime(make_net(), "bf16", CPU)
    given = images(7)
    wanted = expected(given)
    found = staged(halved, given)
    close(found, wanted, 5e-2)
    assert not torch.equal(found, wanted)
    close(halved.direct(1, given), wanted[1], 5e-2)
    state, _ = halved.step(0, halved.start(given))
    assert {part.dtype for part in state if part is not None} == {torch.bfloat16}


def test_int8_is_refused_with_the_runtimes_that_have_it() -> None:
    able = [name for name, spec in sorted(runtimes().items()) if "int8" in spec.precisions]
    assert able
    with pytest.raises(ConfigError, match="runtime 'eager' has no int8; take ") as caught:
        open_runtime("eager", replace(SUBJECT, precision="int8"))
    assert all(f"'{name}'" in str(caught.value) for name in able)


def test_what_is_taken_goes_on_as_it_would_have(runtime: EagerRuntime) -> None:
    given, rows = images(7), torch.tensor([5, 0, 3])
    wanted = expected(given)
    state = runtime.start(given)
    for k in range(3):
        _, of_taken = runtime.step(k, runtime.take(state, rows))
        close(of_taken, wanted[k][rows])
        state, _ = runtime.step(k, state)


def test_what_is_joined_goes_on_as_it_would_have(runtime: EagerRuntime) -> None:
    first, second = images(2), images(3, seed=1)
    states = [runtime.step(0, runtime.start(one))[0] for one in (first, second)]
    _, logits = runtime.step(1, runtime.join(states))
    close(logits, expected(torch.cat([first, second]))[1])


def test_a_state_can_be_stepped_twice_and_after_others(runtime: EagerRuntime) -> None:
    given = images(5)
    state, _ = runtime.step(0, runtime.start(given))
    kept = [None if part is None else part.clone() for part in state]
    _, first = runtime.step(1, state)
    staged(runtime, images(5, seed=1))
    runtime.step(1, runtime.take(state, torch.tensor([4, 4])))
    after, second = runtime.step(1, state)
    _, last = runtime.step(2, after)
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(kept, state, strict=True) if a is not None and b is not None)
    close(last, expected(given)[2])


def test_threads_do_not_disturb_each_other(runtime: EagerRuntime) -> None:
    given = [images(count, seed) for seed, count in enumerate((1, 2, 7, 3))]
    shared, _ = runtime.step(0, runtime.start(given[0]))
    start = threading.Barrier(4)

    def work(own: Tensor) -> tuple[Tensor, Tensor]:
        start.wait()
        for _ in range(5):
            answers = staged(runtime, own)
            of_shared = runtime.step(1, shared)[1]
        return answers, of_shared

    with ThreadPoolExecutor(4) as pool:
        for own, (answers, of_shared) in zip(given, pool.map(work, given), strict=True):
            close(answers, expected(own))
            close(of_shared, expected(given[0])[1])


def test_a_stage_that_nobody_cancels_is_the_stage(runtime: EagerRuntime) -> None:
    state = runtime.start(images(2))
    done = runtime.step_unless(Cancellation(), 0, state)
    assert done is not None
    assert torch.equal(done[1], runtime.step(0, state)[1])


def test_a_stage_that_was_cancelled_before_does_not_begin(runtime: EagerRuntime) -> None:
    cancelled = Cancellation()
    cancelled.set()
    ran = convolutions_of(runtime, lambda: None)
    assert runtime.step_unless(cancelled, 0, runtime.start(images(1))) is None
    assert ran == []


def test_a_stage_stops_at_the_next_cell_and_its_state_stays_usable(runtime: EagerRuntime) -> None:
    given = images(2)
    state, _ = runtime.step(0, runtime.start(given))
    cancelled = Cancellation()
    ran = convolutions_of(runtime, lambda: cancelled.set() if len(ran) == 3 else None)
    assert runtime.step_unless(cancelled, 1, state) is None
    stopped = len(ran)
    close(runtime.step(1, state)[1], expected(given)[1])
    assert 3 <= stopped < len(ran) - stopped - 5


def convolutions_of(runtime: EagerRuntime, then: Callable[[], object]) -> list[nn.Module]:
    """A list that grows with each convolution; ``then`` is called after it has."""
    ran: list[nn.Module] = []

    def note(one: nn.Module, _inputs: Any, _output: Any) -> None:
        ran.append(one)
        then()

    for part in runtime._net.modules():
        if isinstance(part, ConvReLU):
            part.register_forward_hook(note)
    return ran
