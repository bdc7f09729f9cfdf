import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import BudgetError, ConfigError
from offramp_runtime.costs import UNITS, Costs, parse_budget


@pytest.mark.parametrize("at_exit", [(), (0.0,), (-1.0, 2.0), (math.nan,), (1.0, math.inf)])
def test_a_cost_that_is_not_a_positive_number_is_refused(at_exit: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="give one positive cost per exit"):
        Costs(at_exit, "MAC")


@pytest.mark.parametrize("at_exit", [(1.0, 1.0), (2.0, 1.0), (1.0, 3.0, 2.0)])
def test_cumulative_costs_must_increase_and_direct_ones_need_not(at_exit: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="cumulative costs must increase from exit to exit"):
        Costs(at_exit, "ms")
    assert Costs(at_exit, "ms", kind="direct").at_exit == at_exit


@pytest.mark.parametrize(
    ("value", "text"),
    [(13.24e6, "13.24 MMAC"), (1.36e9, "1.36 GMAC"), (999, "999 MAC"), (1000, "1 KMAC"), (0.5, "0.5 MAC")],
)
def test_multiply_accumulates_are_written_in_the_unit_a_person_would_choose(value: float, text: str) -> None:
    assert Costs((1.0,), "MAC").format(value) == text


@pytest.mark.parametrize(("value", "text"), [(2.0, "2 ms"), (0.12345, "0.123 ms"), (1234.0, "1.23e+03 ms")])
def test_times_are_written_in_milliseconds(value: float, text: str) -> None:
    assert Costs((1.0,), "ms").format(value) == text


@pytest.mark.parametrize(("value", "text"), [(2.0, "2 J"), (0.0123, "12.3 mJ"), (4.5e-7, "0.45 uJ")])
def test_joules_are_written_in_the_unit_a_person_would_choose(value: float, text: str) -> None:
    assert Costs((1.0,), "J").format(value) == text


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (30e6, (30e6, None)),
        (30, (30.0, None)),
        ("30e6", (30e6, None)),
        ("30MMAC", (30e6, "MAC")),
        (" 30 mmac ", (30e6, "MAC")),
        ("1.5GMAC", (1.5e9, "MAC")),
        ("2e3 KMAC", (2e6, "MAC")),
        ("7MAC", (7.0, "MAC")),
        ("2ms", (2.0, "ms")),
        ("0.5s", (500.0, "ms")),
        ("1500 us", (1.5, "ms")),
        ("5mJ", (0.005, "J")),
        ("0.2J", (0.2, "J")),
        ("70 uj", (7e-5, "J")),
    ],
)
def test_a_budget_is_a_number_with_or_without_a_unit(budget: float | str, expected: tuple[float, str | None]) -> None:
    value, unit = parse_budget(budget)
    assert value == pytest.approx(expected[0])
    assert unit == expected[1]


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("lots", "budget 'lots': write a positive number and a unit, such as 30MMAC or 2ms"),
        ("", "write a positive number and a unit"),
        ("-5MMAC", "write a positive number and a unit"),
        ("nan", "write a positive number and a unit"),
        ("30 M MAC", "write a positive number and a unit"),
        ("30 bananas", "budget '30 bananas': unit 'bananas' is unknown; there are MAC, KMAC, MMAC, GMAC, us, ms, s"),
        ("1.2.3ms", "budget '1.2.3ms': '1.2.3' is not a number; write it like 30MMAC"),
        (".", "'.' is not a number"),
        ("0ms", "budget 0ms: must be a positive number per image"),
        ("1e999", "must be a positive number per image"),
        (0.0, "budget 0.0: must be a positive number per image"),
        (-1.0, "must be a positive number per image"),
        (math.nan, "must be a positive number per image"),
        (math.inf, "must be a positive number per image"),
    ],
)
def test_what_is_no_budget_is_refused_in_one_line(budget: float | str, message: str) -> None:
    with pytest.raises(BudgetError) as caught:
        parse_budget(budget)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.floats(1e-3, 1e6), st.sampled_from(sorted(UNITS)))
def test_every_positive_number_with_every_unit_is_a_budget(number: float, unit: str) -> None:
    base, factor = UNITS[unit]
    value, found = parse_budget(f"{number!r}{unit}")
    assert found == base
    assert value == pytest.approx(number * factor)


@given(st.floats(1, 1e12))
def test_what_is_written_can_be_read_again(value: float) -> None:
    read, unit = parse_budget(Costs((1.0,), "MAC").format(value))
    assert unit == "MAC"
    assert read == pytest.approx(value, rel=1e-3)


@given(st.text(max_size=12))
def test_any_text_is_a_budget_or_a_budget_error(text: str) -> None:
    try:
        value, _ = parse_budget(text)
    except BudgetError:
        return
    assert value > 0
