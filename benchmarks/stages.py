"""Does stopping early save time? Batch 1, one thread, eager: time to each exit against its share of the MACs.

Beside the staged network: going straight to each exit, and the network as public code runs it (all cells, all exits).
"""

from collections.abc import Callable
from statistics import median

import torch

import offramp
from common import header, interleaved, keep, markdown, spread
from offramp.measure.macs import direct_macs, staged_macs
from offramp.report.tables import Table

ROUNDS = 30
VARIANT = "msdnet-cifar-anytime-10"


def main() -> None:
    """Print and keep the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = offramp.create(VARIANT).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = net.config.build_plain().eval()
    image = torch.randn(1, 3, 32, 32)
    last = net.num_exits - 1

    def staged(k: int) -> Callable[[], object]:
        return lambda: [logits for _, logits in zip(range(k + 1), net.walk(image), strict=False)]

    def direct(k: int) -> Callable[[], object]:
        return lambda: net.direct(k, image)

    variants = {f"staged {k}": staged(k) for k in range(last + 1)}
    variants |= {f"direct {k}": direct(k) for k in range(last + 1)}
    variants["plain"] = lambda: plain(image)
    times = interleaved(variants, ROUNDS)
    macs, alone = staged_macs(net).at_exit, direct_macs(net).at_exit
    whole = median(times[f"staged {last}"])
    rows = []
    for k in range(last + 1):
        mac_share, time_share = macs[k] / macs[last], median(times[f"staged {k}"]) / whole
        rows.append(
            (
                str(k),
                f"{macs[k] / 1e6:.2f}",
                spread(times[f"staged {k}"]),
                f"{mac_share:.3f}",
                f"{time_share:.3f}",
                f"{time_share / mac_share:.2f}",
                f"{alone[k] / 1e6:.2f}",
                spread(times[f"direct {k}"]),
            )
        )
    columns = ("exit", "MMAC", "ms", "MAC share", "time share", "time / MAC share", "direct MMAC", "direct ms")
    reference = f"\nPublic code's way (all cells, all exits): {spread(times['plain'])} ms.\n"
    keep(
        "stages",
        header(f"Stages of {VARIANT}", ROUNDS) + "\n" + markdown(Table(columns, tuple(rows))) + reference,
        times,
    )


if __name__ == "__main__":
    main()
