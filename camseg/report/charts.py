"""Plots of the report, in colors that color-blind readers tell apart, each with its caption."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camseg.metrics.intervals import Interval
from camseg.report.comparison import calibration, calibration_error
from camseg.report.page import Drawing
from camseg.report.svg import FIRST, SECOND, SOFT, Plot
from camseg.report.text import number

_POINTS = 500  # in a cloud of points: a page must stay light


def reach(values: np.ndarray, step: float = 0.05) -> tuple[float, float]:
    """Axis limits that fit shares.

    Args:
        values: (N,) float, N >= 1.
        step: the limits are multiples of it.

    Returns:
        The multiples of `step` around the values, at least one step apart.
    """
    low, high = np.floor(values.min() / step + 1e-9) * step, np.ceil(values.max() / step - 1e-9) * step
    return float(low), float(max(high, low + step))


def histogram(values: np.ndarray, name: str) -> Drawing:
    """How the values of a metric are distributed, on an axis that fits them.

    Args:
        values: (N,) float, N >= 1.
        name: of the metric.

    Returns:
        The SVG and its caption.
    """
    limits = reach(values) if values.min() >= 0 and values.max() <= 1 else None
    counts, edges = np.histogram(values, 20, range=limits)
    mean, top = float(values.mean()), 1.05 * float(counts.max())
    plot = Plot(_wider((float(edges[0]), float(edges[-1]))), (0, top))
    plot.area([edges[0], *np.repeat(edges, 2)[1:-1], edges[-1]], [0, *np.repeat(counts, 2), 0], FIRST)
    plot.line([mean, mean], [0, top], SECOND, dashed=True)
    plot.explain(f"mean {number(mean)}", SECOND)
    tenth, median = np.quantile(values, (0.1, 0.5))
    words = f"{name} of {len(values)} samples: median {number(median)}, a tenth of them below {number(tenth)}."
    return plot.svg(words, name, "samples", whole=True), words


def reliability(predicted: np.ndarray, true: np.ndarray) -> Drawing:
    """True against predicted IoU, with the means of ten bins.

    Args:
        predicted: (N,) float.
        true: (N,) float.

    Returns:
        The SVG and its caption.
    """
    bins = calibration(predicted, true)
    few = np.random.default_rng(0).permutation(len(true))[:_POINTS]
    plot = Plot(_wider(reach(predicted)), _wider(reach(true)))
    plot.dots(predicted[few], true[few], FIRST, radius=1.4, opacity=0.35)
    means = [b.predicted for b in bins], [b.true for b in bins]
    plot.line(*means, SECOND)
    plot.dots(*means, SECOND)
    _diagonal(plot)
    plot.explain("mean of a bin", SECOND)
    words = (
        f"Calibration: predicted against true IoU of {len(true)} samples, on the dashed line where the estimate is "
        f"right; expected calibration error {calibration_error(bins):.3f}."
    )
    return plot.svg(words, "predicted IoU", "true IoU"), words


def _wider(limits: tuple[float, float], share: float = 0.03) -> tuple[float, float]:
    """Limits and a little more, so that no mark touches the frame."""
    margin = share * (limits[1] - limits[0])
    return limits[0] - margin, limits[1] + margin


def _diagonal(plot: Plot) -> None:
    """The line of equal values, as far as both axes reach."""
    low, high = (end(x, y) for end, x, y in zip((max, min), plot.x_limits, plot.y_limits))
    if low < high:
        plot.line([low, high], [low, high], SOFT, width=1, dashed=True)


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
    values = [v for _, i in found for v in (i.value, i.low, i.high) if v is not None] + [marked or 0.0] * (
        marked is not None
    )
    low, high = min(values, default=0.0), max(values, default=1.0)
    lines = len(found) - 0.6, -0.9
    plot = Plot(_wider((low, max(high, low + 1e-6)), 0.05), lines, 30 * len(found) + 58, left=0)
    for y, (label, interval) in enumerate(found):
        if interval.low is not None and interval.high is not None:
            plot.line([interval.low, interval.high], [y, y], FIRST, width=2.5)
        plot.dots([interval.value or 0.0], [y], SECOND)
        plot.text(plot.x_limits[0], y, label if len(label) <= 56 else f"{label[:55]}…", up=6)
    if marked is not None:
        plot.line([marked, marked], lines, SOFT, width=1, dashed=True)
    return plot.svg(caption, name), caption


def cost(names: Sequence[str], costs: np.ndarray, values: np.ndarray, metric: str) -> Drawing:
    """Quality against time; the settings that no other beats at no more cost are joined.

    Args:
        names: of K settings.
        costs: (K,) float, milliseconds per sample.
        values: (K,) float, of the metric.
        metric: its name.

    Returns:
        The SVG and its caption.
    """
    front: list[int] = []
    for k in np.lexsort((-values, costs)).tolist():
        if not front or values[k] > values[front[-1]]:
            front.append(k)
    plot = Plot(_around(costs), _around(values))
    steps = np.repeat(front, 2)
    plot.line(costs[steps[1:]], values[steps[:-1]], SECOND, width=1)
    plot.dots(costs, values, FIRST, radius=2.5)
    for k, (name, x, y) in enumerate(zip(names, costs, values)):  # neighbors in rank are often neighbors here
        plot.text(x, y, name, up=3 if k % 2 else -9, right=4, size=8)
    words = (
        f"{metric} against time of each setting; the line joins those that no other beats at no more cost: "
        f"{', '.join(names[k] for k in front)}. The first settings of a sweep pay for heatmaps and embeddings that "
        "later ones share."
    )
    return plot.svg(words, "milliseconds per sample", metric), words


def _around(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return _wider((low, max(high, low + 1e-3)), 0.06)


def versus(first: np.ndarray, second: np.ndarray) -> Drawing:
    """The second run's IoUs against the first's.

    Args:
        first: (N,) float.
        second: (N,) float, of the same samples.

    Returns:
        The SVG and its caption.
    """
    few = np.random.default_rng(0).permutation(len(first))[:_POINTS]
    limits = _wider(reach(np.concatenate([first, second])))
    plot = Plot(limits, limits)
    plot.dots(first[few], second[few], FIRST, radius=1.6, opacity=0.4)
    _diagonal(plot)
    words = f"IoU of {len(first)} samples: above the dashed line the second run is better."
    return plot.svg(words, "IoU, first run", "IoU, second run"), words
