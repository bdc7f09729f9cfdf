"""Every value that changes the weights, frozen."""

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, Literal, Self

from offramp.catalog import suggest
from offramp.errors import ConfigError

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run as values. Two runs with equal recipe, commit, hardware, threads and versions are the same run."""

    variant: str
    """Network, by catalog name."""
    source: str
    """Data set, by catalog name."""
    epochs: int
    batch_size: int
    learning_rate: float
    """Peak, reached after the warm-up; then half a cosine down to 0."""
    warmup_epochs: float
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    """On all parameters, norms included, as in the paper."""
    label_smoothing: float = 0.0
    loss_weights: tuple[float, ...] = ()
    """Weight of each exit's cross-entropy, (K,); empty means 1 for all."""
    ema_decay: float = 0.0
    """Of the running average of weights and norm statistics that becomes the model; 0 keeps the last weights."""
    crop_pad: int = 4
    """Pixels padded on each side before the random crop."""
    flip: bool = True
    drop_last: bool = True
    """Leave an epoch's incomplete last batch out."""
    precision: Precision = "fp32"
    channels_last: bool = True
    compile: bool = False
    """torch.compile the training step; pays after minutes."""
    seed: int = 0
    """Of initial weights, order and augmentation."""
    holdout_seed: int = 0
    """Of the calibrate split."""

    def __post_init__(self) -> None:
        for field, least in (("epochs", 1), ("batch_size", 2), ("crop_pad", 0), ("seed", 0), ("holdout_seed", 0)):
            self._check(field, getattr(self, field) >= least, f"must be at least {least}")
        for field in ("learning_rate", "warmup_epochs", "weight_decay"):
            self._check(field, 0 <= getattr(self, field) < float("inf"), "must be a number, not negative")
        for field in ("momentum", "label_smoothing", "ema_decay"):
            self._check(field, 0 <= getattr(self, field) < 1, "must be at least 0 and below 1")
        self._check("loss_weights", all(weight >= 0 for weight in self.loss_weights), "must not be negative")
        self._check(
            "momentum", self.momentum > 0 or not self.nesterov, "Nesterov's step needs it; set nesterov=false too"
        )
        precisions = typing.get_args(Precision)
        self._check("precision", self.precision in precisions, f"choose one of {', '.join(precisions)}")

    def _check(self, field: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ConfigError(f"{field}={getattr(self, field)}: {rule}")

    def override(self, settings: list[str]) -> Self:
        """A copy with ``field=value`` texts applied, each checked against the field's type.

        Raises:
            ConfigError: unknown field (near names are offered), a value of another type, or one that breaks a rule.
        """
        types = typing.get_type_hints(type(self))
        changes: dict[str, Any] = {}
        for setting in settings:
            field, equals, text = setting.partition("=")
            if not equals:
                raise ConfigError(f"'{setting}': settings are written field=value")
            if field not in types:
                raise ConfigError(f"{field}: a recipe has no such field; {suggest(field, types)}")
            changes[field] = _parse(field, text, types[field])
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def _parse(field: str, text: str, kind: Any) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind == tuple[float, ...]:
            return tuple(float(part) for part in text.split(",") if part)
        if typing.get_origin(kind) is Literal:
            return text
        return kind(text)
    except (ValueError, KeyError):
        wanted = {bool: "true or false", tuple[float, ...]: "numbers separated by commas"}.get(kind, kind.__name__)
        raise ConfigError(f"{field}={text}: a recipe wants {wanted} here") from None
