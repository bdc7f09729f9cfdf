from collections.abc import Callable
from types import SimpleNamespace

import pytest

from offramp.catalog import entries, lookup, suggest
from offramp.errors import ConfigError


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a module of another distribution under an entry-point group."""

    def install(group: str, **constants: object) -> None:
        point = SimpleNamespace(load=lambda: SimpleNamespace(__name__="their_module", **constants))
        points = {group: [point]}
        monkeypatch.setattr("offramp.catalog.entry_points", lambda group: points.get(group, []))

    return install


fresh = entries.__wrapped__
"""Without the memory of earlier calls."""


def test_the_entries_of_all_modules_are_found() -> None:
    assert "msdnet-cifar-batch-5" in entries("nets", "VARIANTS")
    assert {"digits", "cifar10", "cifar100"} <= set(entries("data", "SOURCES"))
    assert {"digits", "cifar10"} <= set(entries("recipes", "RECIPES"))


def test_a_constant_nobody_has_gives_no_entries() -> None:
    assert entries("nets", "NOTHING_OF_THE_KIND") == {}


def test_modules_of_other_distributions_take_part(plug_in: Callable[..., None]) -> None:
    plug_in("offramp.data", SOURCES={"theirs": 1})
    found = fresh("data", "SOURCES")
    assert found["theirs"] == 1
    assert "digits" in found


def test_modules_of_other_distributions_take_part_in_their_group_only(plug_in: Callable[..., None]) -> None:
    plug_in("offramp.nets", SOURCES={"theirs": 1})
    assert "theirs" not in fresh("data", "SOURCES")


def test_a_name_that_is_taken_is_refused_with_the_module_to_change(plug_in: Callable[..., None]) -> None:
    plug_in("offramp.data", SOURCES={"digits": 1})
    with pytest.raises(ConfigError, match=r"'digits' is defined twice in the catalog 'data'; rename .* their_module$"):
        fresh("data", "SOURCES")


def test_an_entry_is_looked_up_by_name() -> None:
    assert lookup("data set", "digits", "data", "SOURCES") is entries("data", "SOURCES")["digits"]


def test_an_unknown_name_comes_with_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"^no data set is called 'cifar11'; did you mean '.*cifar10.*'\?$"):
        lookup("data set", "cifar11", "data", "SOURCES")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("appel", "did you mean 'apple'?"),
        ("pears", "did you mean 'pear'?"),
        ("xyz", "there are: apple, banana, pear"),
    ],
)
def test_near_names_are_offered_and_all_of_them_where_none_is_near(name: str, expected: str) -> None:
    assert suggest(name, ["pear", "apple", "banana"]) == expected


def test_what_only_shares_letters_is_not_near() -> None:
    assert suggest("nonsense", ["condensenet"]) == "there are: condensenet"
