import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from PIL import Image

from offramp.errors import MissingExtraError
from offramp.torchvision_import import import_torchvision

NAME = "torchvision.transforms.v2"


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    import_torchvision.cache_clear()
    yield
    import_torchvision.cache_clear()


class Imports:
    """Stands in for the import system: each import of torchvision ends as told."""

    def __init__(self, *ends: Exception | ModuleType) -> None:
        self.ends = list(ends)
        self.asked: list[str] = []

    def __call__(self, name: str) -> ModuleType:
        self.asked.append(name)
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end


class Library:
    """Stands in for the registry of operators, which takes no declaration twice in a process."""

    def __init__(self, declared: list[tuple[str, ...]]) -> None:
        self.declared = declared

    def __call__(self, *what: str) -> "Library":
        self.declared.append(what)
        return self

    def define(self, schema: str) -> None:
        self.declared.append((schema.partition("(")[0],))


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    monkeypatch.setattr(torch.library, "Library", Library(found))
    monkeypatch.setattr("offramp.torchvision_import._KEPT", [])
    return found


def imports(monkeypatch: pytest.MonkeyPatch, *ends: Exception | ModuleType) -> Imports:
    stand_in = Imports(*ends)
    monkeypatch.setattr("offramp.torchvision_import.importlib.import_module", stand_in)
    return stand_in


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_the_transforms_come_whether_or_not_the_operators_of_torchvision_load() -> None:
    assert import_torchvision(NAME, "RandAugment").RandAugment(2, 9)(Image.new("L", (5, 4))).size == (5, 4)


def test_without_torchvision_the_way_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    imports(monkeypatch, ModuleNotFoundError("No module named 'torchvision'"))
    with pytest.raises(MissingExtraError) as caught:
        import_torchvision(NAME, "RandAugment")
    assert str(caught.value) == (
        "RandAugment needs torchvision, which is not installed: pip install 'offramp[vision]'"
    )  # fmt: skip


def test_a_torchvision_that_loads_is_taken_as_it_is(
    monkeypatch: pytest.MonkeyPatch, declared: list[tuple[str, ...]]
) -> None:
    module = ModuleType(NAME)
    asked = imports(monkeypatch, module)
    assert import_torchvision(NAME, "RandAugment") is import_torchvision(NAME, "RandAugment") is module
    assert asked.asked == [NAME]
    assert declared == []


def test_one_whose_operators_are_missing_is_imported_anew_with_them_declared(
    monkeypatch: pytest.MonkeyPatch, declared: list[tuple[str, ...]]
) -> None:
    module = ModuleType(NAME)
    half = {name: ModuleType(name) for name in ("torchvision", "torchvision.ops", "torchvision_else")}
    for name, one in half.items():
        monkeypatch.setitem(sys.modules, name, one)
    asked = imports(monkeypatch, RuntimeError("operator torchvision::nms does not exist"), module)
    assert import_torchvision(NAME, "RandAugment") is module
    assert asked.asked == [NAME, NAME]
    assert declared == [("torchvision", "DEF"), ("nms",), ("qnms",)]
    assert [name for name in half if name in sys.modules] == ["torchvision_else"]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), ValueError("torchvision::nms")], ids=repr)
def test_other_failures_of_the_import_are_not_hidden(
    monkeypatch: pytest.MonkeyPatch, declared: list[tuple[str, ...]], error: Exception
) -> None:
    imports(monkeypatch, error)
    with pytest.raises(type(error), match=str(error)):
        import_torchvision(NAME, "RandAugment")
    assert declared == []
