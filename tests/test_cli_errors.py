"""Bad input of every kind: each gets exit code 2, one plain line on stderr and nothing on stdout."""

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from offramp.classifier import Classifier
from offramp.classifier.folder import CALIBRATION, MODEL, WEIGHTS, save
from offramp.classifier.run_folder import CHECKPOINTS
from tiny import CLASSES, images, install, make_classifier, make_net, offramp, write_images

PUBLISHED = Path(__file__).parent / "oracles" / "msdnet_even.pth.tar"


class Evil:
    """Unpickling it would run a command."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("echo gotcha",)


@dataclass(frozen=True)
class Bench:
    """Good things to break, and a place for the broken ones."""

    model: Path
    other: Path
    plain: Path
    """Without a calibration."""
    blind: Path
    """Without preprocessing, too."""
    image: Path
    place: Path

    def broken(self, file: str, change: Callable[[bytes], bytes]) -> Path:
        """A copy of the model with one file changed."""
        folder = Path(shutil.copytree(self.model, self.place / "broken"))
        (folder / file).write_bytes(change((folder / file).read_bytes()))
        return folder

    def described(self, **changes: Any) -> Path:
        """A copy of the model with another description."""
        return self.broken(MODEL, lambda old: json.dumps({**json.loads(old), **changes}).encode())

    def file(self, name: str, content: bytes) -> Path:
        (self.place / name).write_bytes(content)
        return self.place / name

    def truncated_jpeg(self) -> Path:
        whole = self.place / "whole.jpg"
        Image.fromarray(np.repeat(images(1)[0], 3, axis=-1)).resize((200, 200)).save(whole)
        return self.file("cut.jpg", whole.read_bytes()[:2000])

    def foreign_plan(self, **changes: Any) -> Path:
        path = self.place / "plan.json"
        assert offramp("plan", self.other, "--budget", "1GMAC", "--out", path) == 0
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return path

    def evil(self) -> Path:
        return self.file("evil.pth.tar", pickle.dumps({"state_dict": Evil()}, protocol=2))

    def evil_archive(self) -> Path:
        torch.save({"state_dict": {"weight": Evil()}}, self.place / "evil.pt")
        return self.place / "evil.pt"

    def run_folder(self) -> Path:
        """Of a run whose only checkpoint is damaged."""
        (self.place / "run" / CHECKPOINTS).mkdir(parents=True)
        (self.place / "run" / CHECKPOINTS / f"step-00000004.{'0' * 64}.pt").touch()
        return self.place / "run"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("workshop")
    save(make_classifier(), place / "model")
    save(make_classifier(seed=1), place / "other")
    save(make_classifier(calibrated=False), place / "plain")
    save(Classifier(make_net(), CLASSES, None), place / "blind")
    write_images(place, 1)
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        patch.setattr("offramp.classifier.entry.SHIPPED", place)
        yield place


@pytest.fixture
def bench(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    model, other, plain, blind, image = (workshop / name for name in ("model", "other", "plain", "blind", "image0.png"))
    return Bench(model, other, plain, blind, image, tmp_path)


Arguments = Callable[[Bench], list[object]]


def predict(*options: object) -> Arguments:
    return lambda b: ["predict", b.model, b.image, *options]


def predict_file(make: Callable[[Bench], Path]) -> Arguments:
    return lambda b: ["predict", b.model, b.image, make(b)]


def predict_by(make: Callable[[Bench], object]) -> Arguments:
    return lambda b: ["predict", make(b), b.image]


def evaluate(*options: object) -> Arguments:
    return lambda b: ["evaluate", b.model, *options]


def train(*options: object) -> Arguments:
    return lambda b: ["train", *options, "--out", b.place / "out"]


def train_held_out(indices: bytes) -> Arguments:
    return lambda b: ["train", "halves", "--out", b.place / "out", "--holdout-indices", b.file("held-out.txt", indices)]


def bring(*options: object) -> Arguments:
    return lambda b: ["import-checkpoint", PUBLISHED, "--out", b.place / "out", *options]


def bring_file(make: Callable[[Bench], Path]) -> Arguments:
    return lambda b: ["import-checkpoint", make(b), "--out", b.place / "out"]


GREY = "0.5,0.5,0.5"
CASES: dict[str, tuple[Arguments, str]] = {
    # images
    "not an image": (predict_file(lambda b: b.file("a.txt", b"just words")), "not an image Pillow can read"),
    "an empty image": (predict_file(lambda b: b.file("a.png", b"")), "not an image Pillow can read"),
    "a truncated JPEG": (predict_file(Bench.truncated_jpeg), "damaged or truncated"),
    "a missing image": (predict_file(lambda b: b.place / "nothing.png"), "no such file"),
    "a folder as image": (predict_file(lambda b: b.place), "a folder, not an image"),
    "a model that has no preprocessing": (predict_by(lambda b: b.blind), "does not know what its images went through"),
    # models
    "an unknown model": (predict_by(lambda b: "modle"), "did you mean 'model'"),
    "a folder that is no model": (predict_by(lambda b: b.place), "not a model folder"),
    "a model name too long for a file": (predict_by(lambda b: "x" * 5000), "cannot be looked at"),
    "a damaged model.json": (predict_by(lambda b: b.broken(MODEL, lambda old: old[:50])), "cannot be read as JSON"),
    "a newer model": (predict_by(lambda b: b.described(version=99)), "version 99 is newer"),
    "a model of another format": (predict_by(lambda b: b.described(format="pickle")), "is not 'offramp-model'"),
    "an incomplete model": (predict_by(lambda b: b.described(classes=None)), "incomplete or damaged"),
    "an impossible model": (predict_by(lambda b: b.described(net={"exits": 3})), "describes an impossible model"),
    "truncated weights": (predict_by(lambda b: b.broken(WEIGHTS, lambda old: old[:-9])), "get the model anew"),
    "a flipped bit in the weights": (
        predict_by(lambda b: b.broken(WEIGHTS, lambda old: old[:-1] + bytes([old[-1] ^ 1]))), "the file is damaged"
    ),
    "a foreign calibration": (
        predict_by(lambda b: b.broken(CALIBRATION, lambda _: (b.other / CALIBRATION).read_bytes())),
        "the calibration was made for",
    ),
    "a damaged calibration": (
        predict_by(lambda b: b.broken(CALIBRATION, lambda old: old[:100])), "calibrate again"
    ),
    # budgets, deadlines, exits, plans
    "an impossible budget": (predict("--budget", "1KMAC"), "is below exit 0, the cheapest"),
    "a budget of nothing": (predict("--budget", "0MMAC"), "must be a positive number"),
    "a negative budget": (predict("--budget=-5MMAC"), "write a positive number and a unit"),
    "a wrong unit": (predict("--budget", "30parsec"), "unit 'parsec' is unknown"),
    "a budget without a number": (predict("--budget", "MMAC"), "write a positive number and a unit"),
    "a budget without a calibration": (
        lambda b: ["predict", b.plain, b.image, "--budget", "1GMAC"], "offramp calibrate MODEL"
    ),
    "an impossible deadline": (predict("--deadline-ms", "0.0000001"), "is too short for exit 0"),
    "a negative deadline": (predict("--deadline-ms=-1"), "must be a positive number of milliseconds"),
    "a deadline that is no number": (predict("--deadline-ms", "nan"), "must be a positive number of milliseconds"),
    "budget and deadline": (predict("--budget", "1GMAC", "--deadline-ms", "5"), "budget and deadline_ms together"),
    "an exit out of range": (predict("--exit", "3"), "this network has exits 0 … 2"),
    "a negative exit": (predict("--exit=-1"), "this network has exits 0 … 2"),
    "a missing plan": (predict("--plan", "nothing.json"), "no such file"),
    "a foreign plan": (lambda b: ["predict", b.model, b.image, "--plan", b.foreign_plan()], "the plan was made for"),
    "a newer plan": (lambda b: ["predict", b.other, b.image, "--plan", b.foreign_plan(version=9)], "version 9 is newer"),
    "a damaged plan": (
        lambda b: ["predict", b.other, b.image, "--plan", b.foreign_plan(costs=[2, 1])], "incomplete or damaged"
    ),
    "a plan that cannot be written": (
        lambda b: ["plan", b.model, "--budget", "1GMAC", "--out", b.file("file", b"") / "plan.json"], "cannot be written"
    ),
    "a plan where a file is": (
        lambda b: ["plan", b.model, "--budget", "1GMAC", "--out", b.file("mine.json", b"")], "is there already"
    ),
    # data
    "an unknown data set": (evaluate("--data", "halvs"), "did you mean 'halves'"),
    "a missing data root": (evaluate("--data", "cifar10"), "name the one above it with --data-root"),
    "a wrong data root": (evaluate("--data", "cifar10", "--data-root", "."), "no CIFAR-10 there"),
    "data of other classes": (evaluate("--data", "others"), "take the data it was trained for"),
    "a data set nobody named": (
        lambda b: ["evaluate", b.described(about={}), "--json"], "name one with --data"
    ),
    "calibrating what is shipped": (lambda b: ["calibrate", b.model], "is part of the package, which stays as it is"),
    "calibrating with other classes": (
        lambda b: ["calibrate", b.described(), "--data", "others"], "take the data it was trained for"
    ),
    "budgets without a calibration": (
        lambda b: ["evaluate", b.plain, "--budget", "1GMAC"], "this model has no calibration to solve a budget from"
    ),
    "a sweep without a calibration": (
        lambda b: ["evaluate", b.plain, "--sweep", "paper"], "this model has no calibration to solve a budget from"
    ),
    "an unknown sweep": (evaluate("--sweep", "everything"), "Invalid value for '--sweep'"),
    "ten crops of images as large as the network sees": (evaluate("--ten-crop"), "ten crops are cut from images larger"),
    "an unknown split": (evaluate("--split", "train"), "Invalid value for '--split'"),
    "a deadline that no test image keeps": (evaluate("--deadline-ms", "0.0000001"), "too short for exit 0"),
    # training
    "an unknown recipe": (train("halfs"), "did you mean 'halves'"),
    "an unknown recipe field": (train("halves", "--set", "epoch=3"), "did you mean 'epochs'"),
    "a wrong type": (train("halves", "--set", "epochs=lots"), "a recipe wants int here"),
    "an impossible value": (train("halves", "--set", "epochs=0"), "epochs=0: must be at least 1"),
    "a setting without a value": (train("halves", "--set", "epochs"), "settings are written field=value"),
    "an unknown network": (train("halves", "--set", "variant=tinny"), "did you mean 'tiny'"),
    "an unknown schedule": (train("halves", "--set", "schedule=linear"), "choose one of cosine, multistep"),
    "an unknown precision": (train("halves", "--set", "precision=fp8"), "choose one of fp32, bf16, fp16"),
    "unknown budgets for the loss": (
        train("halves", "--set", "loss_budgets=poisson"), "choose one of equal, uniform, normal, exponential"
    ),
    "weights for another number of exits": (train("halves", "--set", "loss_weights=1,2"), "this network has 3 exits"),
    "parts of a single image": (train("halves", "--set", "accumulate=9"), "leaves parts of one image"),
    "a last batch of a single image": (
        train("halves", "--set", "batch_size=9", "--set", "drop_last=false"), "leaves a last batch of one of 64 images"
    ),
    "a crop of more than the image": (train("halves", "--set", "crop_area=0.5,2"), "wants two shares such as 0.08,1"),
    "colour noise for grey images": (train("halves", "--set", "lighting=0.1"), "shifts the colours of RGB images"),
    "an unknown part to freeze": (train("halves", "--freeze", "head"), "choose none, backbone or stages:N"),
    "weights to freeze that are random": (train("halves", "--freeze", "backbone"), "would keep random weights"),
    "a size of nothing": (train("halves", "--size", "0"), "Invalid value for '--size'"),
    "a size beyond all memory": (train("halves", "--size", "500000"), "Invalid value for '--size'"),
    "a size that is none": (train("halves", "--size", "large"), "Invalid value for '--size'"),
    "a hold-out of nothing": (train("halves", "--holdout", "0"), "Invalid value for '--holdout'"),
    "a hold-out of everything": (train("halves", "--holdout", "96"), "has 96 training images, its hold-out wants 96"),
    "missing hold-out indices": (train("halves", "--holdout-indices", "nothing.txt"), "nothing.txt: no such file"),
    "hold-out indices of another kind": (train("halves", "--holdout-indices", "a.csv"), "are read from .txt, .npy, .pth"),
    "hold-out indices that are none": (train_held_out(b"one two"), "cannot be read as indices"),
    "hold-out indices out of range": (train_held_out(b"3 96"), "hold-out index 96: data set 'halves' has training images 0"),
    "negative hold-out indices": (train_held_out(b"3 -1"), "hold-out index -1: data set 'halves' has training images 0"),
    "a hold-out index given twice": (train_held_out(b"3 5 3"), "hold-out index 3 is given 2 times"),
    "no hold-out indices at all": (train_held_out(b""), "wanted a row of whole numbers"),
    "fewer than no workers": (train("halves", "--workers=-1"), "Invalid value for '--workers'"),
    "an unknown thing to do about a bad image": (
        train("halves", "--on-bad-image", "ignore"), "Invalid value for '--on-bad-image'"
    ),
    "a missing folder of images": (train("halves", "--data", "./nowhere"), "no such folder; check the path"),
    "a folder without class folders": (lambda b: ["train", "halves", "--data", b.place], "has no folders"),
    "training nothing further": (train("finetune", "--data", "halves"), "name it with --init"),
    "training an unknown model further": (
        train("finetune", "--init", "modle", "--data", "halves"), "did you mean 'model'"
    ),
    "training further with a network of the recipe's": (
        train("halves", "--init", "model"), "the recipe builds 'tiny' and --init brings a network of its own"
    ),
    "training further on nothing": (train("finetune", "--init", "model"), "or a data set, with --data"),
    "an unknown device": (train("halves", "--device", "tpu"), "give cpu, cuda or auto"),
    "a run folder already used": (
        lambda b: ["train", "halves", "--out", b.run_folder()], "holds a run already"
    ),
    "resuming nothing": (train("halves", "--resume"), "no checkpoint to resume from"),
    "training into a file": (lambda b: ["train", "halves", "--out", b.file("file", b"")], "cannot be written"),
    # checkpoints
    "an evil pickle": (bring_file(Bench.evil), "wants to load"),
    "an evil archive": (bring_file(Bench.evil_archive), "wants to load"),
    "a missing checkpoint": (bring_file(lambda b: b.place / "nothing.pth.tar"), "no such file"),
    "a checkpoint that is none": (bring_file(lambda b: b.image), "cannot be read as a PyTorch checkpoint"),
    "mean without std": (bring("--mean", GREY), "give all three, or none"),
    "a mean that is no number": (bring("--mean", "grey", "--std", GREY, "--size", "32"), "give numbers separated by"),
    "a standard deviation of zero": (bring("--mean", GREY, "--std", "0,0,0", "--size", "32"), "must be positive"),
    "preprocessing of grey images for a network of colour": (
        bring("--mean", "0.5", "--std", "0.5", "--size", "32"), "preprocessing of 1 channels for a network of 3"
    ),
    "a data set and a mean": (bring("--data", "cifar10", "--mean", GREY), "give either --data or those"),
    "a folder that does not tell how images are prepared": (bring("--data", "./mine"), "give --mean, --std and --size"),
    "classes from a data set and from a file": (
        bring("--data", "cifar10", "--classes", "names.txt"), "give either --data or --classes"
    ),
    "a data set of other classes": (bring("--data", "cifar100"), "100 distinct class names for a network of 10"),
    "a missing file of class names": (bring("--classes", "names.txt"), "cannot be read"),
    "an unknown spacing": (bring("--spacing", "odd"), "Invalid value for '--spacing'"),
    "a model folder already used": (
        lambda b: ["import-checkpoint", PUBLISHED, "--out", b.model], "holds a model already"
    ),
    # the command line itself
    "an unknown command": (lambda b: ["predit", b.model, b.image], "No such command 'predit'"),
    "a bad option": (predict("--bugdet", "1GMAC"), "No such option"),
    "an option without its value": (predict("--budget"), "requires an argument"),
    "a number that is none": (predict("--exit", "last"), "Invalid value for '--exit'"),
    "too few classes to show": (predict("--top-k", "0"), "Invalid value for '--top-k'"),
    "no images": (lambda b: ["predict", b.model], "Missing argument"),
    "an unknown network to price": (lambda b: ["cost", "tinyy"], "no network or model is called 'tinyy'; did you mean 'tiny'"),
    "too few classes to price": (lambda b: ["cost", "tiny", "--classes", "1"], "num_classes=1"),
    "a demo over something else": (lambda b: ["demo", "--out", b.file("file", b"").parent], "something else than an"),
}  # fmt: skip


def test_resuming_from_damaged_checkpoints_alone_is_refused_after_each_is_named(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    run = bench.run_folder()
    assert offramp("train", "halves", "--resume", "--out", run) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "note: step-00000004: the checkpoint is damaged (its checksum differs); going back to the one before",
        f"offramp: {run / CHECKPOINTS}: all checkpoints are damaged; start the run anew",
    ]


@pytest.mark.filterwarnings("default::offramp.errors.OfframpWarning")
def test_a_cache_that_cannot_be_written_is_said_and_another_runtime_taken(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OFFRAMP_RUNTIME")
    monkeypatch.setenv("OFFRAMP_CACHE", str(bench.file("a file in the way", b"")))
    assert offramp("predict", bench.model, bench.image, "--exit", "0") == 0
    note, *others = capfd.readouterr().err.splitlines()
    assert note.startswith("note: runtime 'auto' takes 'eager', since others do not open now: ")
    assert "OFFRAMP_CACHE" in note
    assert not others


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_in_one_line(name: str, bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    make_arguments, phrase = CASES[name]
    arguments = make_arguments(bench)
    capfd.readouterr()
    assert offramp(*arguments) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith("offramp: ")
    assert phrase in said.err
    assert "Traceback" not in said.err
