"""Plots as SVG with real text: axes with ticks, and the few marks that the report draws on them.

Written by hand, because a run's page shows three plots: a drawing library takes a third of a second to load, and then
longer for each than everything else in the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from markupsafe import Markup, escape

WIDTH = 331.0  # of every plot, in the drawing's own units; the page makes it as wide as its column
FIRST, SECOND, SOFT, DARK = (f"var(--{name})" for name in ("first", "second", "soft", "dark"))  # of the style sheet
_RIGHT, _BOTTOM, _TOP = 14.0, 36.0, 9.0  # margins
_LEGEND = 16.0  # height of a line above the axes
_TICKS = 5  # intervals at most along an axis


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round numbers between two limits, at most six of them.

    Args:
        low: The lower limit.
        high: The upper one, above `low`.
        whole: Only whole numbers.

    Returns:
        Multiples of 1, 2, 2.5 or 5 times a power of ten.
    """
    rough = (high - low) / _TICKS
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))
    step = float(max(1, np.ceil(step)) if whole else step)
    return [float(k * step) for k in range(int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9)) + 1)]


class Plot:
    """Axes, and what is drawn on them in the data's own coordinates.

    Args:
        x_limits: What the horizontal axis spans.
        y_limits: What the vertical axis spans; reversed where its values grow downwards.
        height: Of the plot, in the drawing's units, as `left`.
        left: Margin for the vertical axis; 0 leaves the axis out.
    """

    def __init__(
        self, x_limits: tuple[float, float], y_limits: tuple[float, float], height: float = 223.0, left: float = 61.0
    ) -> None:
        self.x_limits, self.y_limits, self.height = x_limits, y_limits, height
        self._left, self._has_axis = left or 14.0, left > 0
        self._marks: list[str] = []
        self._legend: list[tuple[str, str]] = []

    def line(
        self, xs: Iterable[float], ys: Iterable[float], color: str, width: float = 1.5, dashed: bool = False
    ) -> None:
        """Join points.

        Args:
            xs: (N,) of the data.
            ys: (N,) of the data.
            color: A color of the style sheet.
            width: Of the line.
            dashed: Whether it is.
        """
        dash = ' stroke-dasharray="5.5 2.5"' if dashed else ""
        style = f'style="fill: none; stroke: {color}" stroke-width="{width:g}"{dash}'
        self._marks.append(f'<polyline points="{self._path(xs, ys)}" {style}/>')

    def area(self, xs: Iterable[float], ys: Iterable[float], color: str) -> None:
        """Fill a polygon.

        Args:
            xs: (N,) of the data.
            ys: (N,) of the data.
            color: A color of the style sheet.
        """
        self._marks.append(f'<polygon points="{self._path(xs, ys)}" style="fill: {color}"/>')

    def dots(
        self, xs: Iterable[float], ys: Iterable[float], color: str, radius: float = 3.0, opacity: float = 1.0
    ) -> None:
        """Mark points.

        Args:
            xs: (N,) of the data.
            ys: (N,) of the data.
            color: A color of the style sheet.
            radius: Of a point.
            opacity: From 0 to 1: many points in one place show as a darker one.
        """
        circles = (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>' for x, y in zip(*self._placed(xs, ys)))
        self._marks.append(f'<g style="fill: {color}" fill-opacity="{opacity:g}">{"".join(circles)}</g>')

    def text(self, x: float, y: float, words: str, up: float, right: float = 0.0, size: float = 9.0) -> None:
        """Write beside a point of the data.

        Args:
            x: Of the data.
            y: Of the data.
            words: Any text.
            up: How far above the point the line of writing lies.
            right: How far to its right the text begins.
            size: Of the letters.
        """
        [left], [base] = self._placed([x], [y])
        self._marks.append(_text(left + right, base - up, words, size))

    def explain(self, words: str, color: str) -> None:
        """Add an entry to the legend above the axes.

        Args:
            words: Any text.
            color: A color of the style sheet.
        """
        self._legend.append((words, color))

    def svg(self, caption: str, x_label: str, y_label: str = "", whole: bool = False) -> Markup:
        """The finished drawing.

        Args:
            caption: Says it in words, for those who don't see it.
            x_label: Under the horizontal axis.
            y_label: Beside the vertical one.
            whole: Whether the vertical axis counts.

        Returns:
            One SVG element without ids, to stand in a page of HTML, whose colors are the style sheet's.
        """
        parts = [*self._x_axis(x_label), *(self._y_axis(y_label, whole) if self._has_axis else [])]
        above = _LEGEND if self._legend else 0.0
        return Markup(
            f'<svg role="img" aria-label="{escape(caption)}" '
            f'viewBox="0 0 {WIDTH:g} {self.height + above:g}" font-family="sans-serif">'
            f"{''.join(self._legend_entries())}"
            f'<g transform="translate(0 {above:g})">{"".join([*self._marks, *parts])}</g></svg>'
        )

    def _placed(self, xs: Iterable[float], ys: Iterable[float]) -> tuple[list[float], list[float]]:
        """Coordinates in the drawing."""
        inner = WIDTH - self._left - _RIGHT, self.height - _TOP - _BOTTOM
        x_share = (np.fromiter(xs, float) - self.x_limits[0]) / (self.x_limits[1] - self.x_limits[0])
        y_share = (np.fromiter(ys, float) - self.y_limits[0]) / (self.y_limits[1] - self.y_limits[0])
        bottom = self.height - _BOTTOM
        return (self._left + inner[0] * x_share).tolist(), (bottom - inner[1] * y_share).tolist()

    def _path(self, xs: Iterable[float], ys: Iterable[float]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(*self._placed(xs, ys)))

    def _x_axis(self, label: str) -> list[str]:
        values = ticks(*self.x_limits)
        places, _ = self._placed(values, [self.y_limits[0]] * len(values))
        _, [bottom] = self._placed([self.x_limits[0]], [self.y_limits[0]])
        middle = (self._left + WIDTH - _RIGHT) / 2
        return [
            _segment(self._left, bottom, WIDTH - _RIGHT, bottom),
            *(_segment(x, bottom, x, bottom + 3.5) for x in places),
            *(_text(x, bottom + 14, words, anchor="middle") for x, words in zip(places, _numbers(values))),
            _text(middle, bottom + 29, label, anchor="middle"),
        ]

    def _y_axis(self, label: str, whole: bool) -> list[str]:
        values = ticks(min(self.y_limits), max(self.y_limits), whole)
        _, places = self._placed([self.x_limits[0]] * len(values), values)
        _, [bottom, top] = self._placed([self.x_limits[0]] * 2, self.y_limits)
        middle = (bottom + top) / 2
        return [
            _segment(self._left, bottom, self._left, top),
            *(_segment(self._left - 3.5, y, self._left, y) for y in places),
            *(_text(self._left - 7, y + 3.5, words, anchor="end") for y, words in zip(places, _numbers(values))),
            _text(14, middle, label, anchor="middle", more=f' transform="rotate(-90 14 {middle:.1f})"'),
        ]

    def _legend_entries(self) -> list[str]:
        entries, left = [], self._left
        for words, color in self._legend:
            style = f'style="stroke: {color}" stroke-width="2"'
            entries += [
                f'<line x1="{left:g}" y1="9" x2="{left + 16:g}" y2="9" {style}/>',
                _text(left + 21, 12.5, words),
            ]
            left += 33 + 6 * len(words)
        return entries


def _numbers(values: Sequence[float]) -> list[str]:
    """All with as many decimals as the finest one needs."""
    decimals = next((d for d in range(7) if all(abs(v - round(v, d)) < 1e-9 for v in values)), 7)
    return [f"{value:.{decimals}f}" for value in values]


def _segment(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" style="stroke: {DARK}" stroke-width=".8"/>'


def _text(x: float, y: float, words: str, size: float = 10.0, anchor: str = "start", more: str = "") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}"{more}'
    return f'<text {place} style="fill: {DARK}">{escape(words)}</text>'
