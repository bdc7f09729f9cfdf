"""The scripts for a borrowed machine, run as they will be there, but on a CPU and in small."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from borrowed import Machine, pack, script, write_origin

pytest.importorskip("pyarrow")

STUBBORN = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)\n"
OBEDIENT = """
import pathlib, time
try:
    pathlib.Path({saved!r}).touch()
    time.sleep(60)
except KeyboardInterrupt:
    exit(130)
"""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_origin(tmp_path_factory.mktemp("origin"))


# ---- the script


@pytest.mark.parametrize(
    "arguments",
    [(), ("nonsense",), ("restore",), ("restore", "cifar10-fast")],
    ids=lambda words: " ".join(words) or "none",
)
def test_a_wrong_call_gets_the_usage(arguments: tuple[str, ...], tmp_path: Path) -> None:
    told = Machine(tmp_path).run(*arguments)
    assert told.returncode == 2
    assert told.stderr.startswith("usage: benchmarks/gpu/run.sh check")


def test_jobs_are_the_four_that_are_announced(tmp_path: Path) -> None:
    told = Machine(tmp_path).run("--help")
    assert told.returncode == 0
    jobs = script("jobs").JOBS
    assert f"JOB:   {', '.join(jobs)}" in told.stdout
    assert {name: job.goal for name, job in jobs.items() if job.goal} == {
        "cifar10-paper": 0.944,
        "cifar100-paper": 0.755,
    }


def child(tmp_path: Path, source: str) -> list[str]:
    (tmp_path / "child.py").write_text(source)
    return [sys.executable, str(tmp_path / "child.py")]


def test_a_command_is_stopped_by_sigint_once_it_has_saved_something(tmp_path: Path) -> None:
    source = OBEDIENT.format(saved=str(tmp_path / "saved"))
    code = script("jobs").within(child(tmp_path, source), 0.0, (tmp_path / "saved").exists, patience=30)
    assert code == 130
    assert (tmp_path / "saved").exists()


def test_a_command_that_does_not_stop_is_ended_and_called_again(tmp_path: Path) -> None:
    assert script("jobs").within(child(tmp_path, STUBBORN), 0.0, lambda: False, patience=1.5) == 130


def test_a_command_that_ends_by_itself_keeps_its_exit_code(tmp_path: Path) -> None:
    assert script("jobs").within(child(tmp_path, "exit(3)"), 30, lambda: False) == 3


def test_progress_is_the_share_that_is_saved(tmp_path: Path) -> None:
    progress = script("jobs").progress
    assert progress(tmp_path) == "nothing is saved yet"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000025.abc.pt").touch()
    assert progress(tmp_path) == "less than an epoch is saved yet"
    (tmp_path / "recipe.json").write_text(json.dumps({"epochs": 10}))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"epoch": 2, "step": 20, "seconds": 60.0}) + "\n")
    assert progress(tmp_path) == "25.0 % done, about 3.8 minutes of training left"


# ---- a whole job


@pytest.mark.slow
def test_a_job_is_cut_taken_to_another_machine_finished_and_evaluated(origin: Path, tmp_path: Path) -> None:
    first, second = Machine(tmp_path / "first", {"OUT": str(tmp_path / "out1")}), Machine(tmp_path / "second")
    pack(origin, first.inputs, 0.5)
    first.unpack()
    cut = first.job("--seconds", 0.1, "--commit", "abc")
    assert cut.returncode == 130, cut.stderr
    assert re.search(
        r"cifar10-paper: call me again; \d+\.\d % done, about \d+\.\d minutes of training left", cut.stdout
    )
    brought = tmp_path / "out1" / "cifar10-paper"
    check_results(brought)
    assert json.loads((brought / "results.json").read_text())["evaluation"] == {}

    pack(origin, second.inputs, 0.5)
    second.unpack()
    restored = second.run("restore", "cifar10-paper", brought, "--runs", second.runs)
    assert "cifar10-paper: restored;" in restored.stdout
    assert second.run("restore", "cifar10-paper", brought, "--runs", second.runs).returncode == 2
    done = second.job("--commit", "abc")
    assert done.returncode == 0, done.stderr
    assert "cifar10-paper: done; trained and evaluated" in done.stdout
    lines = (second.runs / "cifar10-paper" / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line)["epoch"] for line in lines]
    assert epochs == list(range(1, 7))  # what the first machine did was not done again, and nothing was left out
    check_results(second.runs / "cifar10-paper" / "results")
    results = json.loads((second.runs / "cifar10-paper" / "results" / "results.json").read_text())
    assert results["commit"] == "abc"
    assert results["n"] == {"trainings": 1, "test_images": 60}
    assert results["last_exit_top1"] == results["evaluation"]["exits"][-1]["top1"]
    assert results["reached"] is None  # a small network has no goal
    assert {"device", "torch", "python"} <= results["machine"].keys()
    assert len(results["evaluation"]["sweep"]) == 39


def check_results(folder: Path) -> None:
    """What may be brought back: few and small files with plain names."""
    files = list(folder.iterdir())
    assert 4 <= len(files) <= 8
    assert all(file.is_file() and re.fullmatch(r"[A-Za-z0-9._-]+", file.name) for file in files)
    assert all(file.stat().st_size <= 16 << 20 for file in files)


# ---- check


@pytest.mark.slow
def test_every_path_that_needs_no_gpu_is_tried_on_a_cpu(tmp_path: Path) -> None:
    told = Machine(tmp_path, {"OUT": str(tmp_path)}).run("check", "--device", "cpu", "--tiny", "--commit", "abc")
    assert told.returncode == 0, told.stdout + told.stderr
    report = json.loads((tmp_path / "check.json").read_text())
    assert report["machine"]["commit"] == "abc"
    assert report["machine"]["torch"] == str(torch.__version__)
    outcomes = {one["path"]: one["outcome"] for one in report["paths"]}
    assert set(outcomes.values()) == {"ok", "needs CUDA"}
    assert all((outcome == "needs CUDA") == named(path) for path, outcome in outcomes.items())
    assert [row["step"] for row in report["throughput"]] == ["fast-cifar", "paper-cifar"]
    assert all(row["median"] > 0 for row in report["throughput"])


def named(path: str) -> bool:
    """Whether it is one of those that mean nothing without a GPU."""
    return path.startswith(("no waiting", "CUDA graph", "joules")) or "compiled" in path or "waits" in path


def test_a_path_that_fails_is_told_and_the_others_are_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check = script("check")

    def wrong(_world: object) -> str:
        raise ValueError("two\nlines")

    monkeypatch.setattr(check, "PATHS", {"wrong": wrong, "right": lambda _world: "a note", "late": lambda _world: ""})
    found = check.try_all(torch.device("cpu"), "", 60)
    assert [one.outcome for one in found] == ["FAILED", "ok", "ok"]
    assert found[0].note == "ValueError: two lines"
    assert [one.outcome for one in check.try_all(torch.device("cpu"), "late", -1)] == ["not tried"]
    assert "a note" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_check_says_so(tmp_path: Path) -> None:
    told = Machine(tmp_path).run("check")
    assert told.returncode == 2
    assert "there is no CUDA device here; take --device cpu --tiny" in told.stderr
