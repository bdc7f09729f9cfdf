"""``offramp cost``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from offramp.cli.options import Json


def run(
    net: Annotated[str, typer.Argument(help="Network by name (see `offramp list`), model folder or shipped model.")],
    classes: Annotated[int | None, typer.Option(help="Number of classes, for a network by name.")] = None,
    json: Json = False,
) -> None:
    """Show what each exit costs: multiply-accumulates, parameters and measured milliseconds.

    "full" is what public code computes, every scale of every layer; "lazy" leaves out what no exit so far needs and is
    what offramp runs; "direct" goes straight to one exit. One MAC is one multiply-add of a convolution or linear layer.
    """
    import torch

    from offramp.catalog import entries, suggest
    from offramp.classifier import create
    from offramp.classifier.entry import find, shipped_models
    from offramp.classifier.folder import fast, read
    from offramp.cli.show import say_json, say_table, waiting
    from offramp.errors import ConfigError
    from offramp.measure.latency import time_stages
    from offramp.measure.macs import direct_macs, staged_macs
    from offramp.report.tables import Table

    variants = entries("nets", "VARIANTS")
    if net not in variants and net not in shipped_models() and not Path(net).exists():
        raise ConfigError(f"no network or model is called '{net}'; {suggest(net, [*variants, *shipped_models()])}")
    if classes is not None and net not in variants:
        raise ConfigError(
            f"--classes {classes}: '{net}' is a trained model, which has its classes; leave the option out"
        )
    with waiting("building the network, counting, and measuring its stages"):
        network = fast(
            create(net, num_classes=classes) if net in variants else read(find(net), calibrated=False).net
        ).eval()
        config = network.config
        with torch.device("meta"):
            plain = config.build_plain()
        image = torch.zeros(1, config.image_channels, config.image_size, config.image_size)
        full, lazy, direct = staged_macs(plain), staged_macs(network), direct_macs(network)
        ms = time_stages(network, lambda: image, repeats=10).costs
    rows: list[dict[str, Any]] = [
        {
            "exit": k,
            "full_macs": full.at_exit[k],
            "lazy_macs": lazy.at_exit[k],
            "direct_macs": direct.at_exit[k],
            "parameters": sum(p.numel() for stage in network.stages[: k + 1] for p in stage.parameters()),
            "ms": ms.at_exit[k],
        }
        for k in range(network.num_exits)
    ]
    if json:
        say_json(rows)
        return
    cells = tuple(
        (
            str(row["exit"]),
            *(lazy.format(row[f"{kind}_macs"]) for kind in ("full", "lazy", "direct")),
            f"{row['parameters']:,}",
            f"{row['ms']:.2f}",
        )
        for row in rows
    )
    columns = ("exit", "full", "lazy", "direct", "parameters", "ms, 1 image")
    say_table(
        f"{net}: cost of one image up to each exit (network itself, eager, {torch.get_num_threads()} threads)",
        Table(columns, cells),
    )
