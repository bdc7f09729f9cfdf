"""Accuracy against the deadline, from deadlines really tried."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deadline_trials import LATE_MS, NOTHING, Array, Trials, percent

BINS = 14
IMAGE = Path(__file__).parent.parent / "docs" / "images" / "deadlines.svg"
GREY, RED, TEAL = "#8a8f98", "#d1495b", "#00798c"


def curve(trials: Trials, right: NDArray[np.float64]) -> dict[str, list[float]]:
    """Accuracy in percent against the deadline; no answer, or one that is late, counts as a wrong one.

    Whole and direct are given their 99th percentile, as the predictor is.
    """
    image = trials.image.astype(int)
    allow = np.quantile(trials.piece_ms, 0.99, axis=0)
    deepest = np.array([max((k for k in range(len(right)) if allow[k] <= d), default=NOTHING) for d in trials.deadline])

    def scored(exit_index: NDArray[Any], in_time: NDArray[Any]) -> Array:
        return np.where(in_time & (exit_index >= 0), right[exit_index, image], 0.0)

    ours = scored(trials.exit.astype(int), trials.predicted <= trials.deadline + LATE_MS)
    interrupted = scored(trials.seen.astype(int), trials.kind == 1)
    last = np.full(len(image), len(right) - 1)
    lines = {
        "answer before the deadline": ours,
        "interrupted": np.where(trials.kind == 1, interrupted, np.nan),
        "direct to the exit that fits": scored(deepest, deepest >= 0),
        "whole network": scored(last, allow[-1] <= trials.deadline),
    }
    edges = np.quantile(trials.deadline, np.linspace(0, 0.99, BINS + 1))
    places = [(trials.deadline >= low) & (trials.deadline < high) for low, high in pairwise(edges)]
    found = {"deadline_ms": [float(trials.deadline[place].mean()) for place in places]}
    return found | {name: [percent(line[place & ~np.isnan(line)]) for place in places] for name, line in lines.items()}


def draw(curves: dict[str, dict[str, list[float]]]) -> None:
    """The curves as an SVG file."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    styles = {
        "answer before the deadline": (TEAL, "o-"),
        "interrupted": (TEAL, "o:"),
        "direct to the exit that fits": (RED, "s--"),
        "whole network": (GREY, "^-"),
    }
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (condition, lines) in zip(panels, curves.items(), strict=True):
        for name, (color, style) in styles.items():
            axes.plot(lines["deadline_ms"], lines[name], style, color=color, label=name, markersize=4)
        axes.set_title("idle" if condition == "idle" else "beside one busy core", fontsize=10)
        axes.set_xlabel("deadline, ms")
        axes.set_ylabel("top-1 accuracy, %; no answer in time is wrong")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, fontsize=9, loc="outside lower center", ncols=len(styles))
    IMAGE.parent.mkdir(exist_ok=True)
    # Text as paths with fixed ids and no date: the same figures draw the same file.
    with rc_context({"svg.hashsalt": "offramp"}):
        figure.savefig(IMAGE, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
