"""One step, on two linear exits that stand for a network, and on the tiny network itself."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from offramp.nets.base import MultiExitNet
from offramp.train.recipe import Recipe
from offramp.train.step import Step
from tiny import CONFIG, PREPROCESSING, RECIPE, images, make_net

LABELS = torch.arange(20) % 4
PIXELS = PREPROCESSING.normalize(torch.from_numpy(images(20)))
PLAIN = replace(RECIPE, momentum=0.0, nesterov=False, weight_decay=0.0)


class Linears(nn.Module):
    """Exits that see nothing but the image, without norms."""

    def __init__(self, exits: int = 2) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.exits = nn.ModuleList(nn.Linear(256, 4) for _ in range(exits))
        self.given: list[torch.dtype] = []

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.stack([one(images.flatten(1)) for one in self.exits])
        self.given.append(logits.dtype)
        return logits


def step_of(net: nn.Module, recipe: Recipe, weights: tuple[float, ...] = ()) -> Step:
    optimizer = torch.optim.SGD(
        net.parameters(), recipe.learning_rate, recipe.momentum,
        weight_decay=recipe.weight_decay, nesterov=recipe.nesterov, fused=True,
    )  # fmt: skip
    exits = net.num_exits if isinstance(net, MultiExitNet) else len(net.exits)  # type: ignore[arg-type]
    return Step(net, optimizer, torch.tensor(weights or (1.0,) * exits), recipe)


def gradient_of(net: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters() if parameter.grad is not None])


def close(one: nn.Module, other: nn.Module, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    for (name, tensor), expected in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=rtol, atol=atol, msg=name)


def reference_steps(net: MultiExitNet, recipe: Recipe, weights: list[float]) -> None:
    """Two steps of SGD with momentum and weight decay, written out."""
    velocity: dict[str, Tensor] = {}
    for _ in range(2):
        net.zero_grad(set_to_none=True)
        loss = torch.zeros(())
        for weight, logits in zip(weights, net.walk(PIXELS), strict=True):
            loss = loss - weight * logits.log_softmax(1)[torch.arange(20), LABELS].mean()
        torch.autograd.backward(loss)
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None
            gradient = parameter.grad + recipe.weight_decay * parameter.detach()
            before = velocity.get(name, torch.zeros_like(gradient))
            velocity[name] = recipe.momentum * before + gradient
            move = gradient + recipe.momentum * velocity[name] if recipe.nesterov else velocity[name]
            parameter.data -= recipe.learning_rate * move


@pytest.mark.parametrize("nesterov", [True, False])
def test_a_step_is_a_step_of_sgd_on_the_weighted_sum_of_the_exits(nesterov: bool) -> None:
    recipe = replace(RECIPE, learning_rate=0.05, nesterov=nesterov, weight_decay=0.01)
    ours, theirs = make_net().train(), make_net().train()
    step = step_of(ours, recipe, (0.5, 2.0, 1.0))
    for _ in range(2):
        losses = step(PIXELS, LABELS)
        assert losses.shape == (3,)
        assert not losses.requires_grad
    reference_steps(theirs, recipe, [0.5, 2.0, 1.0])
    close(ours, theirs, atol=5e-5)


# ---- accumulation


@pytest.mark.parametrize("accumulate", [2, 3, 4, 10])
@pytest.mark.parametrize("targets", [LABELS, torch.rand(20, 4).softmax(1)], ids=["labels", "probabilities"])
@pytest.mark.parametrize("make", [Linears, make_net], ids=["without norms", "norms that do not learn"])
def test_a_batch_in_parts_gives_the_gradient_and_the_losses_of_the_whole(
    accumulate: int, targets: Tensor, make: Any
) -> None:
    whole, parts = make(), make()
    expected = step_of(whole, RECIPE)(PIXELS, targets)
    found = step_of(parts, replace(RECIPE, accumulate=accumulate, batch_size=20))(PIXELS, targets)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient_of(parts), gradient_of(whole), rtol=1e-4, atol=1e-5)
    close(parts, whole)


@pytest.mark.parametrize(("count", "sizes"), [(10, [3, 3, 2, 2]), (7, [3, 2, 2]), (3, [3]), (2, [2])])
def test_no_part_is_a_single_image(count: int, sizes: list[int]) -> None:
    seen: list[int] = []
    net = Linears()
    net.register_forward_hook(lambda _net, given, _out: seen.append(len(given[0])))
    step_of(net, replace(RECIPE, accumulate=4))(PIXELS[:count], LABELS[:count])
    assert seen == sizes


# ---- clipping


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_whole_gradient_is_shortened_to_the_norm_and_keeps_its_direction(precision: Any) -> None:
    free, clipped = Linears(), Linears()
    step_of(free, PLAIN)(PIXELS, LABELS)
    whole = gradient_of(free)
    assert whole.norm() > 0.5
    before = torch.cat([parameter.detach().flatten() for parameter in clipped.parameters()])
    step_of(clipped, replace(PLAIN, clip_norm=0.5, precision=precision))(PIXELS, LABELS)
    after = torch.cat([parameter.detach().flatten() for parameter in clipped.parameters()])
    moved = (before - after) / PLAIN.learning_rate
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-3)
    assert torch.cosine_similarity(moved, whole, dim=0).item() == pytest.approx(1, abs=1e-4)


def test_a_gradient_shorter_than_the_norm_is_left_alone() -> None:
    free, clipped = Linears(), Linears()
    step_of(free, PLAIN)(PIXELS, LABELS)
    step_of(clipped, replace(PLAIN, clip_norm=1e6))(PIXELS, LABELS)
    assert torch.equal(gradient_of(free), gradient_of(clipped))


# ---- precision


@pytest.mark.parametrize(
    ("precision", "dtype", "tolerance"),
    [("fp32", torch.float32, 1e-6), ("bf16", torch.bfloat16, 0.03), ("fp16", torch.float16, 0.004)],
)
def test_the_network_runs_in_the_precision_asked_for_and_weights_and_losses_stay_float32(
    precision: Any, dtype: torch.dtype, tolerance: float
) -> None:
    exact, net = Linears(), Linears()
    expected = step_of(exact, PLAIN)(PIXELS, LABELS)
    losses = step_of(net, replace(PLAIN, precision=precision))(PIXELS, LABELS)
    assert net.given == [dtype]
    assert losses.dtype == torch.float32
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    torch.testing.assert_close(losses, expected, rtol=tolerance, atol=tolerance)
    close(net, exact, rtol=tolerance, atol=tolerance)


def test_a_half_precision_step_that_overflows_is_skipped_even_if_it_is_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is not filled is not zero as a rule; here it never is.
    monkeypatch.setattr(torch, "empty_like", lambda tensor: torch.full_like(tensor, float("nan")))
    recipe = replace(RECIPE, precision="fp16")
    net, fresh = Linears(), Linears()
    step = step_of(net, recipe)
    step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-30)
    step(PIXELS, LABELS)
    assert step.scaler.get_scale() == 2.0**10
    close(net, Linears(), rtol=0, atol=0)
    step(PIXELS, LABELS)
    step_of(fresh, recipe)(PIXELS, LABELS)
    close(net, fresh, rtol=1e-3, atol=1e-4)


# ---- compiling


def test_a_compiled_step_goes_through_what_the_compiler_made(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def compiled(losses: nn.Module, **_: object) -> Any:
        def forward(images: Tensor, targets: Tensor) -> Tensor:
            calls.append(len(images))
            found: Tensor = losses(images, targets)
            return found

        return forward

    monkeypatch.setattr(torch, "compile", compiled)
    step_of(Linears(), replace(RECIPE, compile=True))(PIXELS, LABELS)
    assert calls == [20]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of what the compiler imports
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_really_compiled_step_does_what_the_plain_one_does(precision: Any) -> None:
    small = CONFIG.replace(exits=2, scale_factors=(1, 2), bottleneck_factors=(1, 2))
    recipe = replace(RECIPE, precision=precision, learning_rate=0.01)
    plain, compiled = small.build().train(), small.build().train()
    compiled.load_state_dict(plain.state_dict())
    ours, theirs = step_of(plain, recipe), step_of(compiled, replace(recipe, compile=True))
    tolerance = 1e-3 if precision == "fp32" else 0.1
    for _ in range(3):
        expected, found = ours(PIXELS, LABELS), theirs(PIXELS, LABELS)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    close(compiled, plain, rtol=tolerance, atol=tolerance)
