"""``offramp export``."""

from pathlib import Path
from typing import Annotated

import typer

from offramp.cli.options import Json, Model, PrecisionName


def run(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier bundle in it is replaced.", metavar="DIR")],
    format: Annotated[
        str, typer.Option(help="onnx or openvino (run by offramp-runtime, without PyTorch), torch-export, executorch.")
    ] = "onnx",
    precision: PrecisionName = "fp32",
    threads: Annotated[
        int | None, typer.Option(min=1, help="The bundle is measured with; by default all cores.", metavar="N")
    ] = None,
    measure: Annotated[
        bool, typer.Option(help="Measure a latency table on this machine, within 15 seconds, for budgets in ms.")
    ] = True,
    json: Json = False,
) -> None:
    """Write a bundle that exits: one graph per stage, one straight to each exit, the weights once, and a manifest.

    `pip install offramp-runtime[onnx]` runs it where there is no PyTorch: offramp_runtime.load(DIR).predict(IMAGES,
    budget="20MMAC"). The calibration of the precision goes along, so that any budget can be solved there.
    """
    from offramp.classifier.entry import find
    from offramp.classifier.folder import read
    from offramp.cli.show import remark, say, say_json, waiting
    from offramp.export.bundle import check_place, export
    from offramp_runtime.loading import KINDS
    from offramp_runtime.model import MEASURING_S
    from offramp_runtime.precision import check_precision

    check_place(out)
    classifier = read(find(model))
    chosen = check_precision(precision)
    with waiting(f"writing graphs{' and measuring what they take here' if measure else ''}, within a minute"):
        manifest = export(
            classifier, format, out, precision=chosen, threads=threads, measuring_s=MEASURING_S if measure else 0
        )
    if classifier.calibrations.get(chosen) is None:
        remark(
            f"no calibration of {chosen} went along, so budgets will be refused; "
            f"make one with: offramp calibrate {model} --data NAME --precision {chosen}"
        )
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if json:
        say_json({"bundle": str(out), "format": format, "precision": precision, "bytes": size, **manifest.to_json()})
        return
    stages = f"{manifest.num_exits} stage{'s'[: manifest.num_exits > 1]}"
    say(f"wrote {out}: {format}, {precision}, {stages}, {size / 1e6:.1f} MB")
    if measure and format in KINDS and manifest.latency is None:
        remark(f"this machine cannot run the bundle in {format} {precision}, so no latency table goes along")
    if manifest.latency is not None:
        last = manifest.num_exits - 1
        ms = sum(manifest.latency.ms(k, 1) for k in range(last + 1))
        first = f"{manifest.latency.ms(0, 1):.3g} ms to exit 0, " if last else ""
        say(f"measured here in runtime {format}: one image by itself takes {first}{ms:.3g} ms to exit {last}")
    if format in KINDS:
        say(
            f"run it with: python -c \"import offramp_runtime; print(offramp_runtime.load('{out}').predict('image.png'))\""
        )
