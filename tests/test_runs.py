import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from offramp.classifier.run_folder import ENVIRONMENT, LOCK, METRICS
from offramp.cli.main import main
from offramp.errors import ArtifactError
from offramp.report.runs import differences, find_runs, is_run, read_run
from offramp.train.guard import run_lock
from tiny import RECIPE, install, offramp

Capture = pytest.CaptureFixture[str]


def epoch(number: int, *top1: float) -> dict[str, Any]:
    return {
        "epoch": number, "step": 7 * number, "seconds": 90.0 * number, "images_per_s": 1234.5 + number,
        "losses": [1.0] * len(top1), "calibrate_top1": list(top1),
    }  # fmt: skip


def write_run(folder: Path, *epochs: dict[str, Any], model: dict[str, Any] | None = None, **recipe: Any) -> Path:
    """The files a training leaves."""
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps({**RECIPE.to_json(), "epochs": 4, **recipe}))
    (folder / "environment.json").write_text(json.dumps({"commit": "abc123", "device": "a CPU"}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in epochs))
    if model is not None:
        (folder / "model").mkdir()
        (folder / "model" / "model.json").write_text(json.dumps(model))
    return folder


TRAINED = {"about": {"source": {"name": "pets"}}}


def shown(capsys: Capture, *arguments: object) -> list[str]:
    assert offramp("runs", *arguments) == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real training of two epochs."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        out = tmp_path_factory.mktemp("runs") / "halves"
        assert main(["train", "halves", "--out", str(out), "--set", "epochs=2", "--device", "cpu"]) == 0
    yield out


def test_a_real_training_is_read_as_it_went(trained: Path) -> None:
    record = read_run(trained)
    told = [json.loads(line) for line in (trained / METRICS).read_text().splitlines()]
    assert (record.state, record.data, record.recipe["variant"], record.recipe["epochs"]) == (
        "finished", "halves", "tiny", 2,
    )  # fmt: skip
    assert [one.epoch for one in record.epochs] == [1, 2]
    assert record.last is not None
    assert record.last.top1 == tuple(told[-1]["calibrate_top1"])
    assert len(record.last.top1) == 3
    assert record.environment["commit"] == json.loads((trained / ENVIRONMENT).read_text())["commit"]


def test_the_list_says_how_far_how_fast_and_how_right(tmp_path: Path, capsys: Capture) -> None:
    write_run(tmp_path / "b", epoch(1, 0.1, 0.2), epoch(2, 0.515, 0.7525))
    write_run(tmp_path / "a", *(epoch(number, 0.5, 0.75) for number in range(1, 5)), model=TRAINED)
    write_run(tmp_path / "deep" / "c", variant="", source="")
    lines = shown(capsys, tmp_path)
    assert lines[2] == "run network data epochs state minutes images/s top-1 %, exit 0 last exit commit"
    assert lines[3:] == [
        f"{tmp_path / 'a'} tiny pets 4/4 finished 6.0 1,238 50.00 75.00 abc123",
        f"{tmp_path / 'b'} tiny halves 2/4 stopped 3.0 1,236 51.50 75.25 abc123",
        f"{tmp_path / 'deep' / 'c'} of --init ? 0/4 stopped – – – – abc123",
    ]


def test_the_default_is_the_folder_runs(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(capsys) == ["no runs here; `offramp train RECIPE` starts one"]
    write_run(Path("runs") / "first", epoch(1, 0.5))
    assert shown(capsys)[-1].startswith("runs/first tiny halves 1/4")


def test_a_run_that_has_only_just_begun_is_listed(tmp_path: Path, capsys: Capture) -> None:
    folder = write_run(tmp_path / "new")
    (folder / "environment.json").unlink()
    (folder / "metrics.jsonl").unlink()
    assert shown(capsys, folder)[-1] == f"{folder} tiny halves 0/4 stopped – – – – ?"


def test_a_run_is_running_while_a_process_holds_its_lock(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", epoch(1, 0.5), model=TRAINED)
    script = f"""
import sys
from pathlib import Path
from offramp.train.guard import run_lock
with run_lock(Path({str(folder)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    assert read_run(folder).state == "finished"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert read_run(folder).state == "running"
        other.kill()  # nothing is tidied up; the lock goes with the process
    assert read_run(folder).state == "finished"


def test_looking_leaves_no_lock_behind(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    read_run(folder)
    assert not (folder / LOCK).exists()
    with run_lock(folder):
        assert read_run(folder).state == "running"
    with run_lock(folder):
        pass


def test_a_lock_that_may_not_be_tried_leaves_the_state_open(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / LOCK).mkdir()  # also root cannot open it
    assert read_run(folder).state == "unknown"


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("recipe.json", "{", "cannot be read as JSON"),
        ("recipe.json", "[1]", "holds a list, not named values"),
        ("environment.json", "", "cannot be read as JSON"),
        ("metrics.jsonl", '{"epoch": 1}\n', "line 1 is not that of an epoch (KeyError)"),
        ("metrics.jsonl", json.dumps(epoch(1, 0.5)) + '\n{"epoch"', "line 2 is not that of an epoch"),
        ("metrics.jsonl", json.dumps({**epoch(1), "calibrate_top1": 3}), "line 1 is not that of an epoch (TypeError)"),
        ("model/model.json", "\0", "cannot be read as JSON"),
    ],
)
def test_a_damaged_run_is_told_in_one_line_and_the_others_are_listed(
    file: str, text: str, reason: str, tmp_path: Path, capsys: Capture
) -> None:
    write_run(tmp_path / "good", epoch(1, 0.5))
    damaged = write_run(tmp_path / "bad", epoch(1, 0.5), model=TRAINED)
    (damaged / file).write_text(text)
    assert offramp("runs", tmp_path) == 0
    out, err = capsys.readouterr()
    assert err.startswith(f"note: {damaged / file}: {reason}")
    assert err.endswith("; the run cannot be shown\n")
    assert err.count("\n") == 1
    assert out.splitlines()[-1].startswith(str(tmp_path / "good"))
    assert str(damaged) not in out


def test_text_that_is_no_unicode_is_damage_too(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for name in ("metrics.jsonl", "recipe.json"):
        (folder / name).write_bytes(b"\xff\xfe")
        with pytest.raises(ArtifactError, match=rf"{name}: cannot be read"):
            read_run(folder)


@pytest.mark.parametrize("about", [None, [], {"source": None}, {"source": {"name": None}}])
def test_a_model_that_does_not_say_its_data_leaves_that_to_the_recipe(about: object, tmp_path: Path) -> None:
    assert read_run(write_run(tmp_path / "run", model={"about": about})).data == "halves"


def test_named_runs_are_compared(tmp_path: Path, capsys: Capture) -> None:
    a = write_run(tmp_path / "a", epoch(1, 0.1, 0.2), epoch(2, 0.5, 0.75, 0.8))
    b = write_run(tmp_path / "b", epoch(1, 0.625, 0.7), learning_rate=0.025, milestones=[0.5], compile=True)
    lines = shown(capsys, a, b)
    at = lines.index("Where their recipes differ")
    assert lines[at + 1 :] == [
        f"recipe {a} {b}", "learning_rate 0.1 0.025", "milestones 0.5,0.75 0.5", "compile false true", "",
        "Held-out top-1 %", f"exit {a} {b}", "0 50.00 62.50", "1 75.00 70.00", "2 80.00 –",
    ]  # fmt: skip


def test_runs_of_equal_recipes_are_told_to_be_equal(tmp_path: Path, capsys: Capture) -> None:
    lines = shown(capsys, write_run(tmp_path / "a", epoch(1, 0.5)), write_run(tmp_path / "b", epoch(1, 0.25)))
    assert "their recipes are the same" in lines
    assert lines[-1] == "0 50.00 25.00"


def test_a_field_an_older_run_lacks_differs(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    older = json.loads((b / "recipe.json").read_text())
    del older["mixup"]
    (b / "recipe.json").write_text(json.dumps(older))
    assert differences([read_run(a), read_run(b)]) == {"mixup": [0.0, None]}


def test_one_run_and_folders_of_runs_are_listed_only(tmp_path: Path, capsys: Capture) -> None:
    a = write_run(tmp_path / "a", epoch(1, 0.5))
    write_run(tmp_path / "b", epoch(1, 0.5), seed=1)
    for arguments in ([tmp_path], [a], [a, tmp_path]):
        assert not any("Held-out" in line for line in shown(capsys, *arguments))


def test_json_says_it_for_machines(tmp_path: Path, capsys: Capture) -> None:
    a = write_run(tmp_path / "a", epoch(1, 0.5, 0.75), model=TRAINED)
    b = write_run(tmp_path / "b", seed=3)
    c = write_run(tmp_path / "c")
    (c / "recipe.json").write_text("{")
    assert offramp("runs", a, b, c, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    first, second = told["runs"]
    assert first["calibrate_top1"] == [0.5, 0.75]
    assert (first["run"], first["state"], first["data"], first["commit"]) == (str(a), "finished", "pets", "abc123")
    assert (first["epochs"], first["of_epochs"], first["minutes"], first["images_per_s"]) == (1, 4, 1.5, 1235.5)
    assert (second["epochs"], second["minutes"], second["calibrate_top1"]) == (0, 0.0, None)
    assert second["recipe"]["seed"] == 3
    assert told["differences"] == {"seed": [0, 3]}
    assert list(told["damaged"]) == [str(c)]


@pytest.mark.parametrize(("name", "reason"), [("empty", "there is no run in it or below"), ("gone", "no such folder")])
def test_a_named_folder_without_runs_is_refused(name: str, reason: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    assert offramp("runs", tmp_path / name) == 2
    err = capsys.readouterr().err
    assert err == f"offramp: {tmp_path / name}: {reason}; name one that `offramp train` has written\n"


def test_nothing_is_looked_for_inside_a_run_or_behind_a_link(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs" / "a")
    write_run(folder / "model" / "inner")
    outside = write_run(tmp_path / "outside" / "b")
    (tmp_path / "runs" / "link").symlink_to(outside.parent)
    assert find_runs(tmp_path / "runs") == [folder]
    assert is_run(folder)
    assert not is_run(tmp_path / "runs")
