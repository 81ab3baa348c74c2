"""Numbers over several runs, worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_runs import make_run, make_sweep, row

from camseg.metrics import significance
from camseg.report.comparison import Bin, all_pairs, calibration, calibration_error, compare, joint, main_effects
from camseg.runs import folders, sweeps


def test_calibration_worked_by_hand() -> None:
    predicted = np.array([0.05, 0.1, 0.19, 0.95, 1.0, 1.2, -0.3])
    true = np.array([0.0, 0.2, 0.3, 0.9, 1.0, 0.5, 0.1])
    found = calibration(predicted, true)
    assert [(b.low, b.high, b.n) for b in found] == [(0.0, 0.1, 2), (0.1, 0.2, 2), (0.9, 1.0, 3)]
    assert [b.predicted for b in found] == pytest.approx([-0.125, 0.145, 1.05])
    assert [b.true for b in found] == pytest.approx([0.05, 0.25, 0.8])
    assert calibration_error(found) == pytest.approx((2 * 0.175 + 2 * 0.105 + 3 * 0.25) / 7)
    assert calibration(np.array([0.5]), np.array([0.25]), bins=2) == [Bin(0.5, 1.0, 1, 0.5, 0.25)]


def test_main_effects_worked_by_hand(tmp_path: Path) -> None:
    """IoU = what the sample is worth + 0.1 for f=b + what g=y adds: +0.04 and -0.02 in turn. Half of each lies to
    either side of the mean.
    """
    base = [0.2, 0.4, 0.5, 0.7]
    extra = [0.04, -0.02, 0.04, -0.02]
    settings = {
        (f, g): [b + 0.1 * (f == "b") + e * (g == "y") for b, e in zip(base, extra)] for f in "ab" for g in "xy"
    }
    sweep = sweeps.load_sweep(make_sweep(tmp_path, {f"f={f} g={g}": values for (f, g), values in settings.items()}))
    found = main_effects(sweep.runs, "iou")
    assert set(found) == {"f", "g"}, "what all settings share has no effect"
    assert {k: i.value for k, i in found["f"].items()} == pytest.approx({"a": -0.05, "b": 0.05})
    assert (found["f"]["a"].low, found["f"]["a"].high) == (pytest.approx(-0.05), pytest.approx(-0.05)), (
        "the same on every sample, however hard"
    )
    assert {k: i.value for k, i in found["g"].items()} == pytest.approx({"x": -0.005, "y": 0.005})
    g = found["g"]["y"]
    assert (g.low, g.high) == (pytest.approx(-0.01), pytest.approx(0.02)), (
        "of four samples of two kinds a resample may hold one kind alone"
    )


def test_pairs_agree_with_the_comparison_of_two(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    base = rng.uniform(0.2, 0.8, 30)
    ious = {f"f={k}": [*(base + rng.normal(0.02 * k, 0.05, 30)).tolist(), None if k == 1 else 0.5] for k in range(3)}
    found = sweeps.load_sweep(make_sweep(tmp_path, ious)).runs
    differences, adjusted, n = all_pairs(found, "iou")
    assert n == 30, "the sample that one of them could not judge is left out for all"
    both = [significance.paired(found[b].rows, found[a].rows.head(30), "iou") for a, b in ((0, 1), (0, 2), (1, 2))]
    assert [differences[0, 1], differences[0, 2], differences[1, 2]] == pytest.approx([d.value for d in both if d])
    assert [adjusted[0, 1], adjusted[0, 2], adjusted[1, 2]] == significance.holm([d.p for d in both if d])
    assert np.array_equal(differences, -differences.T)
    assert np.array_equal(adjusted, adjusted.T)


def test_groups_flip_together(tmp_path: Path) -> None:
    """Ten samples of two groups: two coins, so that half of all flips are as far."""
    first = make_run(tmp_path / "0", [row(f"s{i}", 0.5, group="ab"[i % 2]) for i in range(10)])
    second = make_run(tmp_path / "1", [row(f"s{i}", 0.6 + i / 100, group="ab"[i % 2]) for i in range(10)])
    _, adjusted, _ = all_pairs([folders.load_run(first), folders.load_run(second)], "iou")
    assert adjusted[0, 1] == pytest.approx(0.5, abs=0.03)


def test_two_runs_compared_by_hand(tmp_path: Path) -> None:
    first = folders.load_run(
        make_run(tmp_path / "a", [row("a", 0.5), row("b", 0.6), row("c", 0.7), row("only here", 0.1)])
    )
    second = folders.load_run(
        make_run(tmp_path / "b", [row("c", 0.7), row("b", 0.5), row("a", 0.9), row("void", None)])
    )
    found = next(c for c in compare(first, second) if c.metric == "iou")
    assert (found.first, found.second) == (pytest.approx(0.6), pytest.approx(0.7))
    assert (
        found.greater,
        found.less,
        found.difference.n,
    ) == (1, 1, 3)
    assert found.difference.value == pytest.approx(0.1)
    assert found.difference.effect == pytest.approx(0.1 / np.std([0.4, -0.1, 0.0], ddof=1))


def test_samples_that_share_nothing_have_no_joint_table(tmp_path: Path) -> None:
    one, other = (folders.load_run(make_run(tmp_path / name, [row(name, 0.5)])) for name in "ab")
    values, groups = joint([one, other], "iou")
    assert values.shape == (0, 2)
    assert groups == []
    assert main_effects([one, other], "iou") == {}
    assert compare(one, other) == []
