from pathlib import Path

import numpy as np
import pytest

from offramp.catalog import entries
from offramp.data.overview import Overview
from offramp.data.scan import Finding, Scanned
from offramp.data.source import Part

CLASSES = ("ant", "bee", "fly")


def scanned(*labels: int, size: tuple[int, int] = (32, 32), bad: tuple[int, ...] = (), salt: str = "") -> Scanned:
    """All different, but for the rows ``bad``, which cannot be read."""
    findings = [
        Finding(row, f"{row}.png", problem=f"{row}.png: damaged")
        if row in bad
        else Finding(row, f"{row}.png", size, "RGB", f"{salt}{row}".encode())
        for row in range(len(labels))
    ]
    return Scanned(np.array(labels), findings)


def overview(train: Scanned, test: Scanned | None = None, *, holdout: int = 3, path: str = "insects") -> Overview:
    parts: dict[Part, Scanned] = {"train": train} if test is None else {"train": train, "test": test}
    return Overview(Path(path), CLASSES, holdout, parts)


EVEN = tuple(range(3)) * 12


def test_a_clean_set_has_no_problems() -> None:
    clean = overview(scanned(*EVEN), scanned(0, 1, 2, salt="test"))
    assert clean.problems == []
    assert clean.duplicates == []
    assert clean.per_class == {name: {"train": 12, "test": 1} for name in CLASSES}


def test_classes_count_what_can_be_read() -> None:
    found = overview(scanned(*EVEN, bad=(0, 3, 1)))
    assert {name: counts["train"] for name, counts in found.per_class.items()} == {"ant": 10, "bee": 11, "fly": 12}


def test_unreadable_images_of_both_parts_come_first() -> None:
    problem = overview(scanned(*EVEN, bad=(4,)), scanned(0, 1, 2, 2, bad=(3,), salt="test")).problems[0]
    assert problem.kind == "unreadable"
    assert problem.text.startswith("2 images that cannot be read")
    assert problem.items == ("4.png: damaged", "3.png: damaged")


def test_test_images_that_are_trained_on_are_a_leak() -> None:
    found = overview(scanned(*EVEN), scanned(0, 1, 2))  # without salt: equal to the first three
    assert [(problem.kind, len(problem.items)) for problem in found.problems] == [("leak", 3)]
    assert found.problems[0].text == "3 test images that training sees too: the test's figures will flatter"


def test_equal_images_of_different_labels_and_plain_copies_are_told_apart() -> None:
    train = scanned(*EVEN)
    same = [Finding(row, f"{row}.png", (32, 32), "RGB", b"same") for row in (0, 3)]  # both ants
    other = [Finding(row, f"{row}.png", (32, 32), "RGB", b"other") for row in (1, 2)]  # a bee and a fly
    replaced = {finding.row: finding for finding in (*same, *other)}
    found = overview(Scanned(train.labels, [replaced.get(one.row, one) for one in train.findings]))
    assert {problem.kind: problem.items for problem in found.problems} == {
        "labels": ("train: 1.png (bee) = train: 2.png (fly)",),
        "duplicates": ("train: 0.png (ant) = train: 3.png (ant)",),
    }


def test_empty_nearly_empty_and_untested_classes_are_named() -> None:
    found = overview(scanned(*[0] * 10, *[1] * 9, 2, bad=(19,)), scanned(0, 1, 0, bad=(1,), salt="test"))
    assert {problem.kind: problem.items for problem in found.problems if problem.kind != "unreadable"} == {
        "empty": ("fly",),
        "thin": ("bee (9)",),
        "untested": ("bee", "fly"),
    }
    texts = [problem.text for problem in found.problems[1:]]
    assert texts[:2] == ["1 class without a readable training image", "1 class with fewer than 10 training images"]


@pytest.mark.parametrize(("holdout", "problem"), [(35, False), (36, True)])
def test_a_hold_out_of_everything_is_a_problem(holdout: int, problem: bool) -> None:
    kinds = [one.kind for one in overview(scanned(*EVEN), holdout=holdout).problems]
    assert kinds == ["holdout"][: int(problem)]


@pytest.mark.parametrize(
    ("side", "count", "recipe", "options"),
    [
        (32, 100, "finetune", "--init cifar10"),
        (40, 10_000, "fast-cifar", ""),
        (41, 10_000, "finetune", "--init cifar10 --size 40"),
        (60, 100, "finetune", "--init cifar10 --size 56"),
        (256, 99_999, "finetune", "--init cifar10 --size 64"),
        (256, 100_000, "imagenet", ""),
    ],
)
def test_the_recipe_suits_size_and_number(side: int, count: int, recipe: str, options: str) -> None:
    suggestion = overview(scanned(*[0] * count, size=(side + 80, side))).suggest()
    assert suggestion.recipe == recipe
    assert suggestion.command == " ".join(f"offramp train {recipe} {options} --data insects".split())
    assert recipe in entries("recipes", "RECIPES")


@pytest.mark.parametrize(
    ("path", "shown"), [("cifar10", "./cifar10"), ("my pets", "'my pets'"), ("/data/cifar10", "/data/cifar10")]
)
def test_the_command_names_the_folder_and_nothing_else(path: str, shown: str) -> None:
    assert overview(scanned(*EVEN), path=path).suggest().command.endswith(f" --data {shown}")


def test_the_command_leaves_unreadable_images_out() -> None:
    assert overview(scanned(*EVEN, bad=(0,))).suggest().command.endswith(" --data insects --on-bad-image skip")


def test_nothing_is_missing_from_the_plain_values() -> None:
    values = overview(scanned(*EVEN, bad=(5,)), scanned(0, 1, 2)).to_json()
    assert values["images"] == {"train": 36, "test": 3}
    assert values["classes"]["fly"] == {"train": 11, "test": 1}
    assert values["unreadable"] == [{"part": "train", "image": "5.png", "reason": "5.png: damaged"}]
    assert values["duplicates"][0] == {
        "copies": [
            {"part": "train", "image": "0.png", "class": "ant"},
            {"part": "test", "image": "0.png", "class": "ant"},
        ],
        "leak": True,
        "labels_differ": False,
    }
    assert [problem["kind"] for problem in values["problems"]] == ["unreadable", "leak"]
    assert values["sizes"]["test"]["median"] == (32, 32)
    assert values["modes"] == {"train": {"RGB": 35}, "test": {"RGB": 3}}
    assert values["no_test"] is None
