"""Does stopping early save time? Batch 1, one thread, eager: time to each exit against its share of the MACs.

Beside the staged network: going straight to each exit, and the network as public code runs it (all cells, all exits).
"""

import copy
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

import offramp
from common import header, interleaved, keep, markdown, spread
from offramp.classifier.folder import fast
from offramp.measure.macs import direct_macs, staged_macs
from offramp.nets.base import MultiExitNet
from offramp.report.tables import Table

ROUNDS = 30
VARIANT = "msdnet-cifar-anytime-10"


def main() -> None:
    """Print and keep a table per memory layout."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = offramp.create(VARIANT).eval()
    nets = {"NCHW": net, "channels last": fast(copy.deepcopy(net))}
    plain = net.config.build_plain().eval()
    image = torch.randn(1, 3, 32, 32)
    variants: dict[str, Callable[[], object]] = {"plain": lambda: plain(image)}
    for layout, one in nets.items():
        for k in range(net.num_exits):
            variants[f"{layout}, staged {k}"] = staged(one, image, k)
            variants[f"{layout}, direct {k}"] = direct(one, image, k)
    with torch.inference_mode():
        times = interleaved(variants, ROUNDS)
    text = header(f"Stages of {VARIANT}, batch 1, eager", ROUNDS)
    for layout in nets:
        text += f"\n## {layout}\n\n" + markdown(exits_table(layout, net, times))
    text += f"\nPublic code's way (all cells, all exits, NCHW): {spread(times['plain'])} ms.\n"
    keep("stages", text, times)


def staged(net: MultiExitNet, image: Tensor, k: int) -> Callable[[], object]:
    """Exits 0 … k, one after the other."""
    return lambda: [logits for _, logits in zip(range(k + 1), net.walk(image), strict=False)]


def direct(net: MultiExitNet, image: Tensor, k: int) -> Callable[[], object]:
    """Exit k alone."""
    return lambda: net.direct(k, image)


def exits_table(layout: str, net: MultiExitNet, times: dict[str, list[float]]) -> Table:
    """Time to each exit against its share of the last exit's MACs."""
    macs, alone = staged_macs(net).at_exit, direct_macs(net).at_exit
    whole = median(times[f"{layout}, staged {len(macs) - 1}"])
    rows = []
    for k in range(len(macs)):
        own = times[f"{layout}, staged {k}"]
        mac_share, time_share = macs[k] / macs[-1], median(own) / whole
        shares = f"{mac_share:.3f}", f"{time_share:.3f}", f"{time_share / mac_share:.2f}"
        straight = f"{alone[k] / 1e6:.2f}", spread(times[f"{layout}, direct {k}"])
        rows.append((str(k), f"{macs[k] / 1e6:.2f}", spread(own), *shares, *straight))
    columns = ("exit", "MMAC", "ms", "MAC share", "time share", "time / MAC share", "direct MMAC", "direct ms")
    return Table(columns, tuple(rows))


if __name__ == "__main__":
    main()
