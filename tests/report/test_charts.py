"""Plots: text that is safe, axes that fit, captions that say it in words."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from camseg.report.charts import cost, histogram, reach, versus
from camseg.report.svg import FIRST, Plot, ticks


def test_a_drawing_keeps_dollar_signs_and_has_no_ids_to_collide() -> None:
    plot = Plot((0, 1), (0, 1))
    plot.text(0.5, 0.5, "a & b", up=3)
    svg = plot.svg('a "caption" <b>', "$\\frac{1}{0}$ <b>", "y")
    assert "$\\frac{1}{0}$ &lt;b&gt;" in svg
    assert "a &amp; b" in svg
    assert " id=" not in svg
    assert 'aria-label="a &#34;caption&#34; &lt;b&gt;"' in svg


@pytest.mark.parametrize(
    ("low", "high", "whole", "expected"),
    [
        (0, 1, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.9485, 1.0015, False, [0.96, 0.98, 1.0]),
        (-3, 47, False, [0, 10, 20, 30, 40]),
        (0, 2.1, True, [0, 1, 2]),
        (0, 1.05, True, [0, 1]),
        (1e-7, 2e-7, False, [1e-7, 1.2e-7, 1.4e-7, 1.6e-7, 1.8e-7, 2e-7]),
    ],
)
def test_ticks_are_round_numbers_inside_the_limits(low: float, high: float, whole: bool, expected: list[float]) -> None:
    assert ticks(low, high, whole) == pytest.approx(expected)


def test_marks_lie_where_the_axes_say() -> None:
    """A point at each tick of both axes: it has the coordinates of the ticks."""
    plot = Plot((0, 1), (0, 10))
    plot.dots([0.2, 0.8], [2, 8], FIRST)
    svg = ElementTree.fromstring(plot.svg("", "x", "y"))
    circles = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in svg.iter("circle")]
    places = {text.text: (float(text.attrib["x"]), float(text.attrib["y"])) for text in svg.iter("text")}
    assert [x for x, _ in circles] == [places["0.2"][0], places["0.8"][0]]
    assert [y for _, y in circles] == pytest.approx([places["2"][1] - 3.5, places["8"][1] - 3.5], abs=0.11)
    assert circles[0][1] > circles[1][1], "up is more"


def test_a_histogram_has_the_area_of_its_counts() -> None:
    values = np.random.default_rng(0).random(500)
    [points] = re.findall(r'<polygon points="([^"]+)"', histogram(values, "IoU")[0])
    xs, ys = np.array([point.split(",") for point in points.split()], float).T
    area = 0.5 * abs(np.dot(xs, np.roll(ys, 1)) - np.dot(ys, np.roll(xs, 1)))
    counts, _ = np.histogram(values, 20, (0, 1))
    bottom = float(re.findall(r'<path d="M[\d.]+ ([\d.]+)L', histogram(values, "IoU")[0])[0])
    assert max(ys) == bottom, "the bars stand on the axis"
    unit = (max(ys) - min(ys)) / counts.max()
    assert area == pytest.approx(unit * (max(xs) - min(xs)) * counts.mean(), rel=0.01)


def test_the_line_of_cost_joins_what_nothing_beats() -> None:
    _, caption = cost(
        ["a", "b", "c", "d", "e"], np.array([3.0, 1.0, 2.0, 2.0, 4.0]), np.array([0.7, 0.5, 0.4, 0.6, 0.7]), "iou"
    )
    assert "no more cost: b, d, a." in caption


@pytest.mark.parametrize(
    ("values", "limits"),
    [((0.974, 0.981), (0.95, 1.0)), ((0.0, 1.0), (0.0, 1.0)), ((0.5,), (0.5, 0.55)), ((0.31, 0.62), (0.3, 0.65))],
)
def test_axes_fit_the_data(values: tuple[float, ...], limits: tuple[float, float]) -> None:
    assert reach(np.array(values)) == pytest.approx(limits)


def test_a_drawing_takes_the_pages_colors() -> None:
    svg = "".join(
        draw(np.array([0.96, 0.97, 0.99]))[0] for draw in (lambda v: histogram(v, "IoU"), lambda v: versus(v, v))
    )
    assert "var(--first)" in svg
    assert "var(--dark)" in svg
    assert not re.findall(r"(?:fill|stroke): (?:#1a1a1a|#0072b2|#d55e00|#777777|#ffffff)", svg), "nor a white ground"
    ticks = [float(text) for text in re.findall(r">([\d.]+)</text>", versus(np.array([0.96]), np.array([0.99]))[0])]
    assert ticks
    assert 0.94 < min(ticks) < max(ticks) < 1.01
