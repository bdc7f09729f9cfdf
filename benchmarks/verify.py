"""Does every runtime give the network's answers? Each network of the catalog x runtime x precision x batch of 1, 7 and 64.

The error is the largest difference of any exit's logits, staged or direct, from those of the network itself, relative to the
largest logit. float32 must stay within 1e-4. What lower precisions do to answers is told by the shipped model on the
CIFAR-10 test images: top-1 agreement with float32 of at least 99.5 % (bf16) and 99 % (int8), accuracy within 0.3 points.

Rows that are done are kept in results/verify.jsonl, so that an interrupted run goes on where it was.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch

import offramp
from common import RESULTS, markdown
from offramp.catalog import entries, lookup
from offramp.classifier import Classifier
from offramp.classifier.folder import INT8, read
from offramp.classifier.quantised import quantise, quantise_with
from offramp.engine.opening import Subject, check_possible, runtimes
from offramp.errors import OfframpError
from offramp.measure.machine import describe_machine
from offramp.nets.base import NetConfig
from offramp.report.tables import Table
from offramp_runtime.precision import check_precision
from runtimes import model_folder, random_images

BATCHES = (1, 7, 64)
LIMIT = 1e-4
AGREEMENT = {"fp32": 0.999, "bf16": 0.995, "int8": 0.99}
POINTS = 0.3
FEW = 10
"""Networks that are named where they have not been run."""
PRECISIONS = ("fp32", "bf16", "int8")
Row = dict[str, Any]


def main() -> None:
    """Run what is missing, then print and keep the table; exit code 1 if a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True, help="folder above cifar10/")
    parser.add_argument("--variants", nargs="*", default=sorted(entries("nets", "VARIANTS")), help="networks by name")
    parser.add_argument("--runtimes", nargs="*", default=sorted(runtimes()), help="runtimes by name")
    parser.add_argument("--precisions", nargs="*", default=PRECISIONS, choices=PRECISIONS, help="of each runtime")
    parser.add_argument("--fresh", action="store_true", help="forget rows of an earlier run")
    parser.add_argument("--name", default="verify", help="of the files under results/, where several machines are kept")
    given = parser.parse_args()
    kept: Path = RESULTS / f"{given.name}.jsonl"
    kept.parent.mkdir(exist_ok=True)
    if given.fresh:
        kept.unlink(missing_ok=True)
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    known = {(row["network"], row["runtime"], row["precision"]) for row in done}
    for place in product(given.variants, given.runtimes, given.precisions):
        if place not in known:
            keep_row(compare(*place), done, kept)
    for row in shipped(given.data_root, product(given.runtimes, given.precisions), known):
        keep_row(row, done, kept)
    broken = [row for row in done if row.get("broken")]
    report(done, kept.with_suffix(".md"))
    if broken:
        raise SystemExit(f"{len(broken)} rows break a limit")


def keep_row(row: Row, done: list[Row], kept: Path) -> None:
    """Print a row and add it to those that are kept."""
    machine = describe_machine(torch.device("cpu"))
    row |= {"commit": machine["commit"], "device": machine["device"]}
    done.append(row)
    with kept.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def compare(variant: str, runtime: str, precision: str) -> Row:
    """One network with random weights in one runtime."""
    began = time.perf_counter()
    row: Row = {"network": variant, "runtime": runtime, "precision": precision}
    try:
        check(variant, runtime, precision)  # before anything is prepared
        classifier = prepared(variant, precision).use(runtime, precision=precision)
    except OfframpError as error:
        return row | {"refused": str(error)}
    errors = [error_of(classifier, batch) for batch in BATCHES]
    broken = precision == "fp32" and max(errors) > LIMIT
    return row | {"errors": errors, "broken": broken, "seconds": round(time.perf_counter() - began, 1)}


def check(variant: str, runtime: str, precision: str) -> None:
    """Refuse what the runtime cannot do, whatever the weights."""
    config: NetConfig = lookup("network", variant, "nets", "VARIANTS")
    with torch.device("meta"):
        net = config.build()
    subject = Subject(net, "", check_precision(precision), 1, torch.device("cpu"), Path(INT8))
    check_possible(runtime, runtimes()[runtime], subject)


def prepared(variant: str, precision: str) -> Classifier:
    """The network in a model folder, quantised where that is wanted."""
    config: NetConfig = lookup("network", variant, "nets", "VARIANTS")
    folder = model_folder(config)
    classifier = read(folder)
    if precision == "int8" and not (folder / INT8).exists():
        batches = [random_images(config, 16).numpy()]
        quantise_with(classifier, batches, folder / INT8)
    return classifier


@torch.inference_mode()
def error_of(classifier: Classifier, batch: int) -> float:
    """Largest relative error of any exit, staged and straight to the last."""
    images = random_images(classifier.net.config, batch)
    runtime, worst = classifier.runtime, 0.0
    state = runtime.start(images)
    last = runtime.num_exits - 1
    for k, expected in enumerate(classifier.net.walk(images)):
        state, logits = runtime.step(k, state)
        straight = runtime.direct(k, images) if k in (0, last) else logits
        for found in (logits, straight):
            worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    return worst


def shipped(data_root: Path, wanted: Iterable[tuple[str, str]], known: set[tuple[str, str, str]]) -> Iterator[Row]:
    """The model in the package on all test images, where that is not known."""
    missing = [place for place in wanted if ("cifar10", *place) not in known]
    if not missing:
        return
    source = lookup("data set", "cifar10", "data", "SOURCES").open(data_root)
    test = source.split("test")
    labels = torch.from_numpy(test.labels)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        offramp.load("cifar10", runtime="eager").save(folder)
        reference = read(folder)
        expected = reference.collect(test).argmax(-1)
        accuracy = (expected == labels).float().mean(1)
        quantise(reference, source, folder / INT8)
        for runtime, precision in missing:
            row: Row = {"network": "cifar10", "runtime": runtime, "precision": precision}
            try:
                classifier = read(folder).use(runtime, precision=precision)
            except OfframpError as error:
                yield row | {"refused": str(error)}
                continue
            found = classifier.collect(test).argmax(-1)
            agree = (found == expected).float().mean(1)
            points = 100 * ((found == labels).float().mean(1) - accuracy)
            broken = float(agree.min()) < AGREEMENT[precision] or float(points.abs().max()) > POINTS
            yield row | {"agreement": agree.tolist(), "points": points.tolist(), "broken": broken}


def report(rows: list[Row], page: Path) -> None:
    """Write the tables."""
    machine = describe_machine(torch.device("cpu"))
    machine |= {fact: " and ".join(sorted({row[fact] for row in rows})) for fact in ("device", "commit")}
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    ordered = sorted(rows, key=lambda row: (row["network"], row["runtime"], PRECISIONS.index(row["precision"])))
    parity = [row for row in ordered if "errors" in row]
    answers = [row for row in ordered if "agreement" in row]
    refused = sorted({(row["runtime"], row["precision"], row["refused"]) for row in ordered if "refused" in row})
    text = f"# Every network in every runtime\n\n{facts}\n\n{__doc__.split('Rows that')[0].strip()}\n\n"
    columns = ("network", "runtime", "precision", *(f"batch {batch}" for batch in BATCHES), "within the limit")
    text += markdown(
        Table(
            columns,
            tuple(
                (
                    row["network"],
                    row["runtime"],
                    row["precision"],
                    *(f"{error:.1e}" for error in row["errors"]),
                    "no" if row["broken"] else "yes" if row["precision"] == "fp32" else "",
                )
                for row in parity
            ),
        )
    )
    text += "\n## The shipped model on the 10,000 CIFAR-10 test images, least and largest over its exits\n\n"
    text += markdown(
        Table(
            ("runtime", "precision", "agreement with fp32, %", "accuracy, points", "within the limits"),
            tuple(
                (
                    row["runtime"],
                    row["precision"],
                    f"{100 * min(row['agreement']):.2f}",
                    f"{min(row['points']):+.2f} … {max(row['points']):+.2f}",
                    "no" if row["broken"] else "yes",
                )
                for row in answers
            ),
        )
    )
    text += "\n## Not run yet\n\n"
    there = {(row["network"], row["runtime"], row["precision"]) for row in rows}
    names = sorted(entries("nets", "VARIANTS"))
    for runtime, precision in product(sorted(runtimes()), PRECISIONS):
        lacking = [name for name in names if (name, runtime, precision) not in there]
        named = ", ".join(lacking) if len(lacking) <= FEW else f"{len(lacking)} of {len(names)} networks"
        text += f"- {runtime}, {precision}: {named or 'nothing'}\n"
    text += "\n## Not to be had here\n\n"
    text += markdown(Table(("runtime", "precision", "reason"), tuple(refused)))
    page.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
