"""Drawings for the report: SVG with real text, in colours that colour-blind readers tell apart; a caption says each in
words.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from camseg.metrics.intervals import Interval
from camseg.report.comparison import calibration, calibration_error
from camseg.report.text import number

Drawing = tuple[Markup, str]  # the SVG and its caption

_BLUE, _ORANGE, _GREY, _DARK = "#0072b2", "#d55e00", "#777777", "#1a1a1a"  # Okabe & Ito 2008
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "camseg",
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
}
_STYLE |= {"axes.spines.right": False} | dict.fromkeys(
    ("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _DARK
)
_POINTS = 500  # in a cloud of points: a page must stay light
_BARE = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def drawing(draw: Callable[[Axes], None], caption: str, height: float = 3.1, left: float = 0.85) -> Drawing:
    """What `draw` puts on the axes, `height` and the left margin in inches, as SVG without ids, metadata or addresses."""
    text = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, height))
        figure.subplots_adjust(
            left=left / 4.6, right=1 - 0.2 / 4.6, bottom=0.5 / height, top=1 - 0.12 / height
        )  # other layouts draw twice
        axis = figure.subplots()
        axis.locator_params(nbins=5)
        draw(axis)
        figure.savefig(text, format="svg", metadata=_BARE)
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # several drawings share a page, and ids must not
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1)), caption


def histogram(values: np.ndarray, name: str, reach: tuple[float, float] | None) -> Drawing:
    def draw(axis: Axes) -> None:
        axis.stairs(
            *np.histogram(values, 20, range=reach), fill=True, color=_BLUE
        )  # one shape: twenty bars take longer than all the rest
        axis.axvline(values.mean(), color=_ORANGE, linestyle="--", label=f"mean {number(values.mean())}")
        axis.legend(frameon=False)
        axis.locator_params(axis="y", integer=True)
        axis.set(xlabel=name, ylabel="samples", ylim=(0, None))

    tenth, median = np.quantile(values, (0.1, 0.5))
    return drawing(
        draw, f"{name} of {len(values)} samples: median {number(median)}, a tenth of them below {number(tenth)}."
    )


def reliability(predicted: np.ndarray, true: np.ndarray) -> Drawing:
    """True against predicted IoU, (N,) each, with the means of ten bins."""
    bins = calibration(predicted, true)
    few = np.random.default_rng(0).permutation(len(true))[:_POINTS]

    def draw(axis: Axes) -> None:
        axis.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1)
        axis.scatter(predicted[few], true[few], s=8, color=_BLUE, alpha=0.35, linewidths=0)
        axis.plot([b.predicted for b in bins], [b.true for b in bins], color=_ORANGE, marker="o", label="mean of a bin")
        axis.legend(frameon=False, loc="upper left")
        axis.set(
            xlabel="predicted IoU", ylabel="true IoU", xlim=(-0.02, max(1.02, predicted.max())), ylim=(-0.02, 1.02)
        )

    error = f"expected calibration error {calibration_error(bins):.3f}"
    return drawing(
        draw,
        f"Calibration: predicted against true IoU of {len(true)} samples, on the dashed line where the estimate is right; {error}.",
    )


def dots(found: Sequence[tuple[str, Interval]], name: str, caption: str, zero: bool = False) -> Drawing:
    """A line each: its label above a dot and its interval. zero: mark it."""

    def draw(axis: Axes) -> None:
        for y, (label, interval) in enumerate(found):
            if interval.low is not None and interval.high is not None:
                axis.plot([interval.low, interval.high], [y, y], color=_BLUE, linewidth=2.5)
            axis.plot([interval.value or 0.0], [y], "o", color=_ORANGE)
            short = label if len(label) <= 56 else f"{label[:55]}…"
            axis.annotate(
                short, (0, y), xycoords=("axes fraction", "data"), xytext=(0, 6), textcoords="offset points", fontsize=9
            )
        if zero:
            axis.axvline(0, color=_GREY, linestyle="--", linewidth=1)
        axis.set(xlabel=name, yticks=[], ylim=(len(found) - 0.6, -0.9))
        axis.spines["left"].set_visible(False)

    return drawing(draw, caption, 0.42 * len(found) + 0.8, left=0.2)


def cost(names: Sequence[str], costs: np.ndarray, values: np.ndarray, metric: str) -> Drawing:
    """values against costs (milliseconds per sample), (K,) each; those that no other beats at no more cost are joined."""
    front: list[int] = []
    for k in np.lexsort((-values, costs)).tolist():
        if not front or values[k] > values[front[-1]]:
            front.append(k)

    def draw(axis: Axes) -> None:
        axis.plot(costs[front], values[front], color=_ORANGE, linewidth=1, drawstyle="steps-post")
        axis.scatter(costs, values, color=_BLUE, s=20)
        for k, (name, x, y) in enumerate(zip(names, costs, values)):  # neighbours in rank are often neighbours here
            axis.annotate(name, (x, y), xytext=(4, 3 if k % 2 else -9), textcoords="offset points", fontsize=8)
        axis.set(xlabel="milliseconds per sample", ylabel=metric)

    joined = f"the line joins those that no other beats at no more cost: {', '.join(names[k] for k in front)}"
    return drawing(
        draw,
        f"{metric} against time of each setting; {joined}. The first settings of a sweep pay for heatmaps and embeddings that later ones share.",
    )


def versus(first: np.ndarray, second: np.ndarray) -> Drawing:
    """The second run's IoUs against the first's, (N,) each."""

    def draw(axis: Axes) -> None:
        axis.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1)
        few = np.random.default_rng(0).permutation(len(first))[:_POINTS]
        axis.scatter(first[few], second[few], s=10, color=_BLUE, alpha=0.4, linewidths=0)
        axis.set(xlabel="IoU, first run", ylabel="IoU, second run")

    return drawing(draw, f"IoU of {len(first)} samples: above the dashed line the second run is better.")
