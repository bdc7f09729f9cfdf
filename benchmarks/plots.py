"""Plots of what benchmarks measured, as SVG in docs/images; equal figures draw equal files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

IMAGES = Path(__file__).parents[1] / "docs" / "images"
COLOURS = {
    "public code": "#8a8f98",
    "eager": "#d1495b",
    "compiled": "#edae49",
    "native": "#66a182",
    "onnx": "#00798c",
    "openvino": "#5c4d7d",
    "none": "#8a8f98",
    "layers": "#00798c",
    "all": "#5c4d7d",
}
SERIES = ("#d1495b", "#00798c", "#edae49", "#5c4d7d", "#66a182", "#8a8f98")


@dataclass
class Curves:
    """Measurements along one axis, for several ways to run the same."""

    over: str
    value: str
    logarithmic: bool = False
    lines: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    """Milliseconds of each round by way and place."""

    @property
    def places(self) -> list[int]:
        """Along the axis, rising."""
        return sorted({place for points in self.lines.values() for place in points})

    def add(self, place: int, times: Mapping[str, list[float]], per: int = 1) -> None:
        """What was measured at one place, divided by ``per``."""
        for name, ms in times.items():
            self.lines.setdefault(name, {})[place] = [one / per for one in ms]


def line_plot(name: str, panels: Mapping[str, Curves]) -> None:
    """A panel per network."""
    figure, axes = _canvas(len(panels))
    for place, (title, curves) in zip(axes, panels.items(), strict=True):
        for line, points in curves.lines.items():
            style = "--" if "," in line else "-"  # a variation of the way before the comma
            medians = [median(points[x]) for x in sorted(points)]
            place.plot(sorted(points), medians, "o", linestyle=style, color=COLOURS[line.split(",")[0]], label=line)
        place.set(title=title, xlabel=curves.over, ylabel=curves.value, xticks=curves.places)
        if curves.logarithmic:
            place.set_xscale("log", base=2)
            place.set_xticks(curves.places, labels=map(str, curves.places))
        place.set_ylim(bottom=0)
        place.legend(frameon=False, fontsize=8)
    _save(figure, name)


def scatter_lines(name: str, value: str, panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> None:
    """A panel per quantity along the axis; points of the same line are joined."""
    figure, axes = _canvas(len(panels))
    for place, (over, lines) in zip(axes, panels.items(), strict=True):
        for (line, points), colour in zip(lines.items(), SERIES, strict=False):
            place.plot(*zip(*points, strict=True), "o-", color=colour, label=line, markersize=4)
        place.set(xlabel=over, ylabel=value)
        place.set_xlim(left=0)
        place.legend(frameon=False, fontsize=8)
    _save(figure, name)


def bar_plot(name: str, panels: Mapping[str, Mapping[str, float]]) -> None:
    """A panel per network, a bar per way to run it, in MB."""
    figure, axes = _canvas(len(panels))
    for place, (title, bars) in zip(axes, panels.items(), strict=True):
        place.barh(list(bars), list(bars.values()), color=[COLOURS[bar.split(",")[0]] for bar in bars])
        place.invert_yaxis()
        place.set(title=title, xlabel="most memory resident, MB")
    _save(figure, name)


def _canvas(panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(5 * panels, 4), layout="constrained")
    axes: list[Axes] = figure.subplots(1, panels, squeeze=False)[0].tolist()
    for place in axes:
        place.grid(alpha=0.25)
        place.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, name: str) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    # Text as paths with fixed ids and no date: the same figures draw the same file.
    with rc_context({"svg.hashsalt": "offramp"}):
        figure.savefig(IMAGES / f"{name}.svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
