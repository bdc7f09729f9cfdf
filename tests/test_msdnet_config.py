from typing import Any

import pytest

from offramp.errors import ConfigError
from offramp.nets.msdnet import MSDNet, MSDNetConfig

GOOD: dict[str, Any] = {"exits": 3, "base": 2, "step": 1}

BAD: list[tuple[dict[str, Any], str]] = [
    ({"exits": 0}, "exits=0: an MSDNet wants a whole number of at least 1 here"),
    ({"exits": -2}, "exits=-2: an MSDNet wants a whole number of at least 1 here"),
    ({"exits": 2.0}, "exits=2.0: an MSDNet wants a whole number of at least 1 here"),
    ({"exits": True}, "exits=True: an MSDNet wants a whole number of at least 1 here"),
    ({"base": 0}, "base=0: an MSDNet wants a whole number of at least 1 here"),
    ({"step": 0}, "step=0: an MSDNet wants a whole number of at least 1 here"),
    ({"step": "2"}, "step='2': an MSDNet wants a whole number of at least 1 here"),
    ({"channels": 0}, "channels=0: an MSDNet wants a whole number of at least 1 here"),
    ({"growth_rate": 0}, "growth_rate=0: an MSDNet wants a whole number of at least 1 here"),
    ({"image_channels": 0}, "image_channels=0: an MSDNet wants a whole number of at least 1 here"),
    ({"num_classes": 1}, "num_classes=1: an MSDNet wants a whole number of at least 2 here"),
    ({"spacing": "lin_grow"}, "spacing='lin_grow': choose one of even, linear"),
    ({"pruning": "none"}, "pruning='none': choose one of max, min"),
    ({"stem": None}, "stem=None: choose one of small, large"),
    ({"bottleneck": "False"}, "bottleneck='False': must be True or False"),
    ({"bottleneck": 1}, "bottleneck=1: must be True or False"),
    ({"scale_factors": ()}, "scale_factors=(): give a tuple with one whole number per scale, finest first"),
    ({"scale_factors": [1, 2, 4]}, "scale_factors=[1, 2, 4]: give a tuple with one whole number per scale"),
    ({"scale_factors": (1, 2, 0)}, "scale_factors=0: an MSDNet wants a whole number of at least 1 here"),
    ({"bottleneck_factors": (1, 2.5, 4)}, "bottleneck_factors=2.5: an MSDNet wants a whole number"),
    ({"bottleneck_factors": (1, 2)}, "bottleneck_factors=(1, 2): wants one entry per scale, and scale_factors has 3"),
    (
        {"growth_rate": 3, "scale_factors": (1, 2, 3)},
        "growth_rate=3: growth times scale factor is 9 at scale 2 and must be even",
    ),
    ({"reduction": -0.1}, "reduction=-0.1: the share of channels kept, between 0 (no transitions) and 1"),
    ({"reduction": 1.5}, "reduction=1.5: the share of channels kept, between 0 (no transitions) and 1"),
    ({"reduction": float("nan")}, "reduction=nan: the share of channels kept, between 0 (no transitions) and 1"),
    ({"reduction": "0.5"}, "reduction='0.5': the share of channels kept, between 0 (no transitions) and 1"),
    ({"reduction": 0.01}, "reduction=0.01: leaves less than one of 16 channels; raise reduction or channels"),
    ({"image_size": 3}, "image_size=3: an MSDNet wants a whole number of at least 4 here"),
    ({"image_size": 15, "stem": "large"}, "image_size=15: an MSDNet wants a whole number of at least 16 here"),
    ({"image_size": 32.0}, "image_size=32.0: an MSDNet wants a whole number of at least 4 here"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[str(changes) for changes, _ in BAD])
def test_a_value_that_breaks_a_rule_is_refused_by_name_value_and_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MSDNetConfig(**(GOOD | changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_changed_copy_keeps_the_rules() -> None:
    config = MSDNetConfig(**GOOD)
    assert config.replace(exits=5) == MSDNetConfig(**(GOOD | {"exits": 5}))
    with pytest.raises(ConfigError, match="exits=0"):
        config.replace(exits=0)


def test_a_transition_that_leaves_no_channel_is_refused_and_not_left_out() -> None:
    config = MSDNetConfig(exits=4, base=2, step=2, channels=10, growth_rate=2, reduction=0.1)
    with pytest.raises(ConfigError, match=r"reduction=0\.1: .*layer"):
        config.build()


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [("even", (4, 2, 2, 2)), ("linear", (4, 3, 5, 7))],
)
def test_the_stages_have_the_layers_of_their_spacing(spacing: Any, expected: tuple[int, ...]) -> None:
    config = MSDNetConfig(exits=4, base=4, step=2, spacing=spacing)
    assert config.stage_layers == expected
    assert config.num_layers == sum(expected)


def test_the_smallest_image_halves_to_a_pixel_at_the_coarsest_scale() -> None:
    assert MSDNetConfig(**GOOD).smallest_image == 4
    four: dict[str, Any] = {"scale_factors": (1, 2, 4, 4), "bottleneck_factors": (1, 2, 4, 4)}
    assert MSDNetConfig(**GOOD, **four).smallest_image == 8
    assert MSDNetConfig(**GOOD, **four, stem="large").smallest_image == 32


def test_a_config_builds_its_network() -> None:
    net = MSDNetConfig(**GOOD, channels=4, growth_rate=2).build()
    assert isinstance(net, MSDNet)
    assert net.num_exits == 3


def test_plain_values_with_unknown_or_missing_fields_are_refused() -> None:
    fields = MSDNetConfig(**GOOD).to_json()
    assert MSDNetConfig.from_json(fields) == MSDNetConfig(**GOOD)
    with pytest.raises(ConfigError, match="fields growth are unknown or missing in an MSDNet"):
        MSDNetConfig.from_json(fields | {"growth": 3})
    del fields["base"]
    with pytest.raises(ConfigError, match="fields base are unknown or missing in an MSDNet"):
        MSDNetConfig.from_json(fields)


def test_the_plain_network_computes_cells_sooner_than_the_lazy_one() -> None:
    config = MSDNetConfig(**GOOD, channels=4, growth_rate=2)
    lazy, plain = config.build(), config.build_plain()
    assert isinstance(lazy, MSDNet)
    assert isinstance(plain, MSDNet)
    assert len(dict(plain.cells())) >= len(dict(lazy.cells()))
    assert len(list(plain.stages[0].parameters())) > len(list(lazy.stages[0].parameters()))
