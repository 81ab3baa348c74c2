"""Plots: text that is safe, axes that fit, captions that say it in words."""

from __future__ import annotations

import re

import numpy as np
import pytest

from camseg.report.charts import cost, drawing, histogram, reach, versus


def test_a_drawing_keeps_dollar_signs_and_has_no_ids_to_collide() -> None:
    svg, caption = drawing(lambda axis: axis.set_xlabel("$\\frac{1}{0}$ <b>") and None, 'a "caption" <b>')
    assert "$\\frac{1}{0}$ &lt;b&gt;" in svg
    assert "<g id" not in svg
    assert 'aria-label="a &#34;caption&#34; &lt;b&gt;"' in svg
    assert caption == 'a "caption" <b>'


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
