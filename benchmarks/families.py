"""The families side by side, from short CIFAR-10 trainings of equal compute: accuracy against MACs and milliseconds.

Every network is trained by the recipe ``small-cifar`` (6 epochs; of the ensemble each member by itself), one run each (n = 1),
and tested on the 10,000 test images. The networks differ in MACs by at most 9 %, so that 6 epochs are the same compute within
that; the table says how much it was: three times the forward pass of all exits, per image. In which precision they were
trained, and all other values, stands beside the figures in the JSON file. CondenseNet is shown as converted,
with grouped convolutions. Milliseconds are process CPU time of one image up to the exit, stage after stage, in ONNX Runtime on
one thread. These are small networks after little training: what the papers report after 300 epochs is another matter.
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

import offramp
from common import header, interleaved, keep, markdown, spread
from offramp.catalog import lookup
from offramp.classifier import Classifier
from offramp.classifier.folder import MODEL
from offramp.classifier.run_folder import MODEL as IN_RUN
from offramp.data.source import Source
from offramp.measure.forms import forms_of
from offramp.measure.macs import staged_macs
from offramp.nets.condensenet import CondenseNet, convert
from offramp.report.evaluation import evaluate
from offramp.report.tables import Table
from plots import scatter_lines

NETWORKS = {
    "MSDNet": "msdnet-cifar-batch-4", "ResNet-MC": "resnet-cifar-small", "DenseNet-MC": "densenet-cifar-small",
    "CondenseNet": "condensenet-cifar-small", "FractalNet": "fractalnet-cifar-small",
}  # fmt: skip
MEMBERS = ("resnet-cifar-8", "resnet-cifar-14")
ENSEMBLE = "ensemble of ResNets"


@dataclass(frozen=True)
class Point:
    """A network that was trained."""

    model: Classifier
    folder: Path
    epochs: int
    trained_macs: float
    """Of a forward pass, in the form that was trained."""


def main() -> None:
    """Train what is not there, test and time all, print and keep table and plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True, help="folder above cifar10/")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/families"), help="run folders; those there are not made anew"
    )
    parser.add_argument("--precision", default="fp32", help="of the training, such as bf16 where the CPU has it")
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    for variant in (*NETWORKS.values(), *MEMBERS):
        train(variant, given.work, given.data_root, given.precision)
    torch.set_num_threads(1)
    source = lookup("data set", "cifar10", "data", "SOURCES").open(given.data_root)
    points = prepared(given.work)
    accuracy = {name: tested(point, source) for name, point in points.items()}
    times = timed(points, given.rounds)
    rows: list[tuple[str, ...]] = []
    values: dict[str, object] = {}
    for name, point in points.items():
        macs = staged_macs(point.model.net).at_exit
        compute = 3 * point.trained_macs * point.epochs * len(source.split("train"))
        values[name] = {
            "macs": macs, "top1": accuracy[name], "ms": times[name], "epochs": point.epochs, "training_macs": compute,
            "recipe": point.model.about.get("recipe"),
        }  # fmt: skip
        for k, (cost, right, ms) in enumerate(zip(macs, accuracy[name], times[name], strict=True)):
            first = (name, f"{compute / 1e12:.1f}") if k == 0 else ("", "")
            rows.append((*first, str(k), f"{cost / 1e6:.1f}", spread(ms), f"{100 * right:.2f}"))
    columns = ("network", "training, TMAC", "exit", "MMAC", "ms, one image", "top-1 %")
    text = header("The families after equal compute on CIFAR-10", given.rounds)
    keep(
        "families",
        f"{text}\n{__doc__.split(chr(10), 2)[2].strip()}\n\n" + markdown(Table(columns, tuple(rows))),
        values,
    )
    scatter_lines(
        "families", "top-1 on the test images, %",
        {
            "MMAC": {name: [(m / 1e6, 100 * a) for m, a in zip(staged_macs(p.model.net).at_exit, accuracy[name], strict=True)]
                     for name, p in points.items()},
            "ms, one image (ONNX Runtime, one thread)": {
                name: [(median(ms), 100 * a) for ms, a in zip(times[name], accuracy[name], strict=True)] for name in points
            },
        },
    )  # fmt: skip


def train(variant: str, work: Path, data_root: Path, precision: str) -> None:
    """As a user would, where it has not been done."""
    out = work / variant
    if (out / IN_RUN / MODEL).is_file():
        return
    settings = ("--set", f"variant={variant}", "--set", f"precision={precision}")
    where = ("--data-root", str(data_root), "--out", str(out), *(("--resume",) if out.is_dir() else ()))
    command = (sys.executable, "-m", "offramp", "train", "small-cifar", *settings, *where)
    subprocess.run(command, check=True)


def prepared(work: Path) -> dict[str, Point]:
    """All six as model folders, in the form that is run."""
    found = {}
    for name, variant in NETWORKS.items():
        model = offramp.load(work / variant, runtime="eager")
        trained, folder = staged_macs(model.net).at_exit[-1], work / variant
        epochs = model.about["recipe"]["epochs"]
        if isinstance(model.net, CondenseNet):
            net = convert(model.net, forms_of(model.net.config, "grouped"))
            model = Classifier(net.eval(), model.classes, model.preprocessing, about=model.about)
            folder = work / f"{variant}-converted"
            model.save(folder)
        found[name] = Point(model, folder, epochs, trained)
    members = [offramp.load(work / variant, runtime="eager") for variant in MEMBERS]
    together = offramp.ensemble(*members)
    together.save(work / "ensemble")
    found[ENSEMBLE] = Point(
        together, work / "ensemble", members[0].about["recipe"]["epochs"], staged_macs(together.net).at_exit[-1]
    )
    return found


def tested(point: Point, source: Source) -> list[float]:
    """Top-1 of each exit on the test images."""
    return [float(one) for one in evaluate(point.model, source).correct.mean(axis=1)]


@torch.inference_mode()
def timed(points: dict[str, Point], rounds: int) -> dict[str, list[list[float]]]:
    """Milliseconds of each round up to each exit."""
    ways = {}
    for name, point in points.items():
        runtime = offramp.load(point.folder, runtime="onnx", threads=1).running.runtime
        image = torch.randn(1, 3, 32, 32)

        def run(last: int, runtime=runtime, image=image) -> None:  # type: ignore[no-untyped-def]
            state = runtime.start(image)
            for k in range(last + 1):
                state, _ = runtime.step(k, state)

        for k in range(runtime.num_exits):
            ways[f"{name} {k}"] = lambda run=run, k=k: run(k)
    times = interleaved(ways, rounds, waking=3)
    return {name: [times[f"{name} {k}"] for k in range(point.model.net.num_exits)] for name, point in points.items()}


if __name__ == "__main__":
    main()
