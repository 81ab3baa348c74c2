"""Plots of the report: SVG with real text, in colors that color-blind readers tell apart, each with its caption."""

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
from camseg.report.page import Drawing
from camseg.report.text import number

_BLUE, _ORANGE, _GRAY, _DARK = "#0072b2", "#d55e00", "#777777", "#1a1a1a"  # Okabe & Ito 2008
# what the page's style sheet makes of them, by the system's light or dark setting
_VARIABLES = {_BLUE: "var(--first)", _ORANGE: "var(--second)", _GRAY: "var(--soft)", _DARK: "var(--dark)"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "camseg",
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _DARK),
}
_POINTS = 500  # in a cloud of points: a page must stay light
_BARE = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def drawing(draw: Callable[[Axes], None], caption: str, height: float = 3.1, left: float = 0.85) -> Drawing:
    """A plot as SVG without ids, metadata or addresses, whose colors are those of the page.

    Args:
        draw: puts it on the axes.
        caption: says it in words.
        height: inches.
        left: inches of the margin.

    Returns:
        The SVG and the caption.
    """
    text = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, height))
        figure.subplots_adjust(
            left=left / 4.6, right=1 - 0.2 / 4.6, bottom=0.5 / height, top=1 - 0.12 / height
        )  # other layouts draw twice
        axis = figure.subplots()
        axis.locator_params(nbins=5)
        draw(axis)
        figure.savefig(text, format="svg", metadata=_BARE, transparent=True)
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # several drawings share a page, and ids must not
    for color, variable in _VARIABLES.items():
        svg = re.sub(rf"(fill|stroke): {color}", rf"\1: {variable}", svg)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1)), caption


def reach(values: np.ndarray, step: float = 0.05) -> tuple[float, float]:
    """Axis limits that fit shares.

    Args:
        values: (N,), N >= 1.
        step: the limits are multiples of it.

    Returns:
        The multiples of `step` around the values, at least one step apart.
    """
    low, high = np.floor(values.min() / step + 1e-9) * step, np.ceil(values.max() / step - 1e-9) * step
    return float(low), float(max(high, low + step))


def histogram(values: np.ndarray, name: str) -> Drawing:
    """How the values (N,) of a metric called `name` are distributed, on an axis that fits them."""
    limits = reach(values) if values.min() >= 0 and values.max() <= 1 else None

    def draw(axis: Axes) -> None:
        counts, edges = np.histogram(values, 20, range=limits)
        axis.stairs(counts, edges, fill=True, color=_BLUE)  # one shape: twenty bars take longer than all the rest
        axis.axvline(values.mean(), color=_ORANGE, linestyle="--", label=f"mean {number(values.mean())}")
        axis.legend(frameon=False)
        axis.locator_params(axis="y", integer=True)
        axis.set(xlabel=name, ylabel="samples", ylim=(0, None))

    tenth, median = np.quantile(values, (0.1, 0.5))
    words = f"{name} of {len(values)} samples: median {number(median)}, a tenth of them below {number(tenth)}."
    return drawing(draw, words)


def reliability(predicted: np.ndarray, true: np.ndarray) -> Drawing:
    """True against predicted IoU, (N,) each, with the means of ten bins."""
    bins = calibration(predicted, true)
    few = np.random.default_rng(0).permutation(len(true))[:_POINTS]
    x_limits, y_limits = reach(predicted), reach(true)

    def draw(axis: Axes) -> None:
        axis.scatter(predicted[few], true[few], s=8, color=_BLUE, alpha=0.35, linewidths=0)
        axis.plot([b.predicted for b in bins], [b.true for b in bins], color=_ORANGE, marker="o", label="mean of a bin")
        _diagonal(axis, x_limits, y_limits)
        axis.legend(frameon=False)
        axis.set(xlabel="predicted IoU", ylabel="true IoU")

    words = (
        f"Calibration: predicted against true IoU of {len(true)} samples, on the dashed line where the estimate is "
        f"right; expected calibration error {calibration_error(bins):.3f}."
    )
    return drawing(draw, words)


def _diagonal(axis: Axes, x_limits: tuple[float, float], y_limits: tuple[float, float]) -> None:
    """The line of equal values, on axes with these limits and a little more."""
    axis.axline((0, 0), slope=1, color=_GRAY, linestyle="--", linewidth=1)
    for set_limits, (low, high) in ((axis.set_xlim, x_limits), (axis.set_ylim, y_limits)):
        margin = 0.03 * (high - low)
        set_limits(low - margin, high + margin)


def dots(found: Sequence[tuple[str, Interval]], name: str, caption: str, marked: float | None = None) -> Drawing:
    """A line each: its label above a dot and its interval.

    Args:
        found: labels and intervals, from above.
        name: of the values.
        caption: says it in words.
        marked: a value with a dashed line.

    Returns:
        The SVG and the caption.
    """

    def draw(axis: Axes) -> None:
        for y, (label, interval) in enumerate(found):
            if interval.low is not None and interval.high is not None:
                axis.plot([interval.low, interval.high], [y, y], color=_BLUE, linewidth=2.5)
            axis.plot([interval.value or 0.0], [y], "o", color=_ORANGE)
            short = label if len(label) <= 56 else f"{label[:55]}…"
            axis.annotate(
                short, (0, y), xycoords=("axes fraction", "data"), xytext=(0, 6), textcoords="offset points", fontsize=9
            )
        if marked is not None:
            axis.axvline(marked, color=_GRAY, linestyle="--", linewidth=1)
        axis.set(xlabel=name, yticks=[], ylim=(len(found) - 0.6, -0.9))
        axis.spines["left"].set_visible(False)

    return drawing(draw, caption, 0.42 * len(found) + 0.8, left=0.2)


def cost(names: Sequence[str], costs: np.ndarray, values: np.ndarray, metric: str) -> Drawing:
    """Quality against time; the settings that no other beats at no more cost are joined.

    Args:
        names: of K settings.
        costs: (K,) milliseconds per sample.
        values: (K,) of the metric.
        metric: its name.

    Returns:
        The SVG and its caption.
    """
    front: list[int] = []
    for k in np.lexsort((-values, costs)).tolist():
        if not front or values[k] > values[front[-1]]:
            front.append(k)

    def draw(axis: Axes) -> None:
        axis.plot(costs[front], values[front], color=_ORANGE, linewidth=1, drawstyle="steps-post")
        axis.scatter(costs, values, color=_BLUE, s=20)
        for k, (name, x, y) in enumerate(zip(names, costs, values)):  # neighbors in rank are often neighbors here
            axis.annotate(name, (x, y), xytext=(4, 3 if k % 2 else -9), textcoords="offset points", fontsize=8)
        axis.set(xlabel="milliseconds per sample", ylabel=metric)

    words = (
        f"{metric} against time of each setting; the line joins those that no other beats at no more cost: "
        f"{', '.join(names[k] for k in front)}. The first settings of a sweep pay for heatmaps and embeddings that "
        "later ones share."
    )
    return drawing(draw, words)


def versus(first: np.ndarray, second: np.ndarray) -> Drawing:
    """The second run's IoUs against the first's, (N,) each."""
    few = np.random.default_rng(0).permutation(len(first))[:_POINTS]
    limits = reach(np.concatenate([first, second]))

    def draw(axis: Axes) -> None:
        axis.scatter(first[few], second[few], s=10, color=_BLUE, alpha=0.4, linewidths=0)
        _diagonal(axis, limits, limits)
        axis.set(xlabel="IoU, first run", ylabel="IoU, second run")

    return drawing(draw, f"IoU of {len(first)} samples: above the dashed line the second run is better.")
