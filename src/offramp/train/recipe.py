"""Every value that changes the weights, frozen."""

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, Literal, Self

from offramp.catalog import suggest
from offramp.errors import ConfigError
from offramp.nets.recompute import Recompute

Precision = Literal["fp32", "bf16", "fp16"]
Schedule = Literal["cosine", "multistep"]
LossBudgets = Literal["equal", "uniform", "normal", "exponential"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run as values. Two runs with equal recipe, commit, hardware, threads and versions are the same run."""

    variant: str = ""
    """Network, by catalog name; empty where a model is trained further (--init)."""
    source: str = ""
    """Data set, by catalog name; empty where it has to be named (--data)."""
    epochs: int
    """Passes over the training images."""
    batch_size: int
    """Images of a step."""
    learning_rate: float
    """Peak, reached after the warm-up; then down by ``schedule``."""
    schedule: Schedule = "cosine"
    """Half a cosine down to 0, or steps."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Shares of the run after which a multistep rate is multiplied by ``decay``."""
    decay: float = 0.1
    """Factor of each such step."""
    warmup_epochs: float = 0
    """Epochs of a linear rise to the peak."""
    momentum: float = 0.9
    """Of the gradient descent."""
    nesterov: bool = True
    """Whether the momentum looks a step ahead, as in the paper."""
    weight_decay: float = 1e-4
    """On all parameters, norms included, as in the paper."""
    label_smoothing: float = 0.0
    """Share of each target that is spread evenly over all classes."""
    loss_weights: tuple[float, ...] = ()
    """Weight of each exit's cross-entropy, (K,); empty leaves it to ``loss_budgets``."""
    loss_budgets: LossBudgets = "equal"
    """Weights proportional to the probability that a budget of this distribution ends at the exit; equal: 1 for all."""
    group_lasso: float = 0.0
    """Weight of the term that draws the inputs a CondenseNet is going to drop to 0 beforehand."""
    accumulate: int = 1
    """Parts a batch is cut into, one after the other, to save memory; norms see a part at a time."""
    clip_norm: float = 0.0
    """Largest norm of the whole gradient; 0 does not clip."""
    ema_decay: float = 0.0
    """Of the running average of weights and norm statistics that becomes the model; 0 keeps the last weights."""
    image_size: int = 0
    """Side of the images in pixels; 0 takes the data set's or the initial model's."""
    interpolation: Literal["keep", "bicubic", "bilinear"] = "keep"
    """Of every resizing, in training and afterwards; keep takes the data set's or the initial model's."""
    crop_pad: int = 0
    """Pixels padded on each side before a random crop."""
    crop_area: tuple[float, ...] = ()
    """Smallest and largest share of the image's area in a random-resized crop; empty does without."""
    flip: bool = True
    """Half of the images left to right."""
    color_jitter: float = 0.0
    """Brightness, contrast and saturation change by up to this share, in random order."""
    lighting: float = 0.0
    """Standard deviation of the colour noise along ImageNet's principal components."""
    randaugment: tuple[int, ...] = ()
    """Operations per image and their magnitude (0 … 30); empty does without."""
    cutout: int = 0
    """Side in pixels of a square that is blanked."""
    mixup: float = 0.0
    """Alpha of the mixing weight's Beta distribution; 0 does not mix."""
    freeze: str = "none"
    """What keeps its initial weights: none, backbone (all but the exits), or stages:N (the first N, without their exits)."""
    backbone_rate: float = 1.0
    """Learning rate of all but the exits, relative to theirs."""
    drop_last: bool = True
    """Leave an epoch's incomplete last batch out."""
    precision: Precision = "fp32"
    """Of the arithmetic inside the network; weights and losses are always fp32."""
    dropout: float = 0.0
    """Of a network that can have it, instead of its own; 0 keeps that."""
    channels_last: bool = True
    """Memory layout of convolutions: faster, with other last bits."""
    compile: bool = False
    """torch.compile the training step; pays after minutes."""
    recompute: Recompute = "none"
    """What dense networks compute again in backward to save memory: none, layers, or all; the weights come out the same, up to
    rounding in lower precisions and compiled steps."""
    seed: int = 0
    """Of initial weights, order and augmentation."""
    holdout_seed: int = 0
    """Of the calibrate split."""

    def __post_init__(self) -> None:
        for field, least in _AT_LEAST.items():
            self._check(field, getattr(self, field) >= least, f"must be at least {least}")
        for field in _NOT_NEGATIVE:
            self._check(field, 0 <= getattr(self, field) < float("inf"), "must be a number, not negative")
        for field in ("momentum", "label_smoothing", "ema_decay", "color_jitter", "dropout"):
            self._check(field, 0 <= getattr(self, field) < 1, "must be at least 0 and below 1")
        for field, kind in typing.get_type_hints(type(self)).items():
            if typing.get_origin(kind) is Literal:
                choices = typing.get_args(kind)
                self._check(field, getattr(self, field) in choices, f"choose one of {', '.join(choices)}")
        self._check("loss_weights", all(weight >= 0 for weight in self.loss_weights), "must not be negative")
        self._check("loss_weights", not self.loss_weights or any(self.loss_weights), "must not all be 0")
        self._check(
            "loss_weights",
            not self.loss_weights or self.loss_budgets == "equal",
            "give weights or loss_budgets, not both",
        )
        self._check("milestones", all(0 < one < 1 for one in self.milestones), "must lie between 0 and 1")
        self._check("milestones", tuple(sorted(self.milestones)) == self.milestones, "must rise")
        self._check(
            "momentum", self.momentum > 0 or not self.nesterov, "Nesterov's step needs it; set nesterov=false too"
        )
        area, operations = self.crop_area, self.randaugment
        self._check(
            "crop_area", not area or (len(area) == 2 and 0 < area[0] <= area[1] <= 1), "wants two shares such as 0.08,1"
        )
        self._check(
            "randaugment",
            not operations or (len(operations) == 2 and operations[0] > 0 and 0 <= operations[1] <= 30),
            "wants operations and magnitude such as 2,9",
        )
        self._check("freeze", _freezes(self.freeze), "choose none, backbone or stages:N")
        self._check(
            "accumulate", self.batch_size // self.accumulate >= 2, "leaves parts of one image, which norms cannot take"
        )

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


DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in dataclasses.fields(Recipe) if field.default is not dataclasses.MISSING
}
"""Values of the fields that have one."""
_AT_LEAST = {
    "epochs": 1, "batch_size": 2, "crop_pad": 0, "cutout": 0, "image_size": 0, "accumulate": 1, "seed": 0, "holdout_seed": 0,
}  # fmt: skip
_NOT_NEGATIVE = (
    "learning_rate", "warmup_epochs", "weight_decay", "decay", "group_lasso", "clip_norm", "lighting", "mixup",
    "backbone_rate",
)  # fmt: skip
_WANTED = {
    bool: "true or false",
    tuple[float, ...]: "numbers separated by commas",
    tuple[int, ...]: "whole numbers separated by commas",
}


def _freezes(freeze: str) -> bool:
    kind, _, count = freeze.partition(":")
    return freeze in ("none", "backbone") or (kind == "stages" and count.isdecimal() and int(count) > 0)


def _parse(field: str, text: str, kind: Any) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if typing.get_origin(kind) is tuple:
            of = typing.get_args(kind)[0]
            return tuple(of(part) for part in text.split(",") if part)
        if typing.get_origin(kind) is Literal:
            return text
        return kind(text)
    except (ValueError, KeyError):
        wanted = _WANTED.get(kind) or kind.__name__
        raise ConfigError(f"{field}={text}: a recipe wants {wanted} here") from None
