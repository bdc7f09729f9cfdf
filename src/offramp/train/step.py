"""One training step."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from offramp.nets.recompute import set_recompute
from offramp.train.loss import exit_losses
from offramp.train.recipe import Recipe

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Step:
    """Forward, loss Σ w_k·CE_k, backward and update; nothing in it waits for the device.

    Args:
        net: gives logits (K, N, C).
        optimizer: of its parameters.
        weights: of the exits' losses, (K,).
        recipe: precision, compiling, accumulation, clipping.
        penalty: what is added to the loss of a step whatever its images are.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        weights: Tensor,
        recipe: Recipe,
        penalty: Callable[[], Tensor] = lambda: torch.zeros(()),
    ) -> None:
        self.optimizer, self.weights, self.recipe, self.penalty = optimizer, weights, recipe, penalty
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        set_recompute(net, recipe.recompute)
        self.losses: Callable[[Tensor, Tensor], Tensor] = _Losses(net, recipe)
        if recipe.compile:
            # Else a smaller last batch has code made for any size, which serves the full batches from then on too.
            self.losses = torch.compile(self.losses, dynamic=False)
        self.scaler = torch.amp.GradScaler(weights.device.type, enabled=recipe.precision == "fp16")
        if self.scaler.is_enabled():
            # A first step that overflows is skipped, and with it the filling of the momentum that fused SGD has made by then.
            for parameter in self.parameters:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """The losses (K,) of normalised images (N, C, H, W), whose update is done.

        Args:
            images: normalised.
            targets: labels (N,), or class probabilities (N, C).
        """
        losses = self.backward(images, targets)
        self.update()
        return losses

    def backward(self, images: Tensor, targets: Tensor) -> Tensor:
        """The losses (K,); the gradients, scaled where a scaler is on, are in the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros_like(self.weights)
        parts = max(1, min(self.recipe.accumulate, len(images) // 2))  # norms cannot take a part of one image
        for some, wanted in zip(images.tensor_split(parts), targets.tensor_split(parts), strict=True):
            losses = self.losses(some, wanted) * (len(some) / len(images))
            self.scaler.scale((losses * self.weights).sum()).backward()  # type: ignore[no-untyped-call]
            total += losses.detach()
        penalty = self.penalty()
        if penalty.requires_grad:
            self.scaler.scale(penalty).backward()  # type: ignore[no-untyped-call]
        return total

    def update(self) -> None:
        """Change the parameters by their gradients."""
        for parameter in self.parameters:
            if parameter.grad is None:  # of a block that was skipped; momentum and decay go on
                parameter.grad = torch.zeros_like(parameter)
        if self.recipe.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()


class _Losses(nn.Module):
    """Images and targets to losses (K,), so that all of it compiles as one."""

    def __init__(self, net: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.net, self.recipe = net, recipe

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """The losses (K,), float32."""
        with self._precision(images.device):
            logits = self.net(images)
        return exit_losses(logits, targets, self.recipe.label_smoothing)

    def _precision(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        if self.recipe.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, _AUTOCAST[self.recipe.precision])
