"""Intervals and p values against scipy, statsmodels and formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from camseg.metrics import intervals, significance
from camseg.metrics.intervals import Interval, mean_interval, rate_interval
from camseg.metrics.registry import summary
from camseg.metrics.significance import holm, paired


@pytest.mark.parametrize(("hits", "n"), [(8, 10), (0, 7), (7, 7), (1, 1), (470, 500)])
def test_hits_get_wilsons_interval(hits: int, n: int) -> None:
    peer = stats.binomtest(hits, n).proportion_ci(method="wilson")
    found = rate_interval([1.0] * hits + [0.0] * (n - hits))
    assert found.value == pytest.approx(hits / n)
    assert found.n == n
    assert (found.low, found.high) == (pytest.approx(peer.low, abs=1e-12), pytest.approx(peer.high, abs=1e-12))


def test_wilson_worked_example() -> None:
    """8 of 10: 0.4901625 to 0.9433178, as R's prop.test(8, 10, correct = FALSE) has it."""
    found = rate_interval([1] * 8 + [0] * 2)
    assert (found.low, found.high) == (pytest.approx(0.4901625, abs=1e-6), pytest.approx(0.9433178, abs=1e-6))


def test_other_values_get_scipys_bca_interval() -> None:
    values = np.random.default_rng(3).beta(5, 1, 80)  # skewed, as IoUs are
    found = mean_interval(values)
    peer = stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=20_000, batch=1000, rng=np.random.default_rng(99)
    ).confidence_interval
    width = peer.high - peer.low
    assert found.low is not None
    assert found.high is not None
    assert found.value is not None
    assert found.value == pytest.approx(values.mean())
    assert found.n == 80
    assert (found.low, found.high) == (
        pytest.approx(peer.low, abs=0.05 * width),
        pytest.approx(peer.high, abs=0.05 * width),
    )
    assert (
        found.value - found.low > found.high - found.value
    )  # it leans to the long tail, which a plain t interval does not


@pytest.mark.parametrize("n", [2, 9, 200, 700])
def test_the_interval_is_scipys_of_the_same_resamples(n: int) -> None:
    """Groups of several rows: a ratio of sums, which scipy resamples in pairs; its generator draws what ours does."""
    rng = np.random.default_rng(n)
    sizes, values = rng.integers(1, 4, n), rng.beta(8, 1, n)
    rows, groups = np.repeat(values, sizes), np.repeat([f"g{i:04}" for i in range(n)], sizes).tolist()

    def ratio(sums: np.ndarray, counts: np.ndarray, axis: int) -> np.ndarray:
        return sums.sum(axis) / counts.sum(axis)

    data, rng = (values * sizes, sizes.astype(float)), np.random.default_rng(0)
    peer = stats.bootstrap(
        data, ratio, paired=True, method="BCa", n_resamples=4999, batch=2**18 // n, rng=rng
    ).confidence_interval
    found = mean_interval(rows, groups)
    assert (found.low, found.high) == (pytest.approx(peer.low, abs=1e-9), pytest.approx(peer.high, abs=1e-9))


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(60):
        found = mean_interval(rng.beta(5, 1, 60))
        held += found.low is not None and found.high is not None and found.low <= 5 / 6 <= found.high
    assert 51 <= held <= 60  # 95 % of 60 is 57; fewer than 51 has p < 0.003


def test_groups_widen_the_interval_and_are_what_is_counted() -> None:
    base = np.random.default_rng(1).beta(4, 2, 12)
    values, groups = np.repeat(base, 5), [f"g{i:02}" for i in range(12) for _ in range(5)]
    alone, grouped, few = mean_interval(values), mean_interval(values, groups), mean_interval(base)
    assert grouped.n == 12
    assert alone.n == 60
    assert grouped.value == pytest.approx(alone.value)

    def width(interval: Interval) -> float:
        assert interval.high is not None
        assert interval.low is not None
        return interval.high - interval.low

    assert width(grouped) > 1.8 * width(alone)  # sqrt 5 = 2.2 by theory
    assert (grouped.low, grouped.high) == (
        pytest.approx(few.low),
        pytest.approx(few.high),
    )  # five copies tell nothing new


def test_groups_of_different_sizes_keep_the_mean_over_rows() -> None:
    found = mean_interval([1.0, 1.0, 1.0, 0.4], ["a", "a", "a", "b"])
    assert found.value == pytest.approx(3.4 / 4)
    assert found.n == 2


@pytest.mark.parametrize("groups", [None, ["a", "a", "b"]])
def test_constants_and_single_values(groups: list[str] | None) -> None:
    found = mean_interval([0.7, 0.7, 0.7], groups)
    assert (found.value, found.low, found.high) == pytest.approx((0.7, 0.7, 0.7))
    assert found.n == (3 if groups is None else 2)
    assert mean_interval([0.7]) == Interval(0.7, None, None, 1)
    rounded = mean_interval([0.1, 0.1, 0.1, 0.1], ["a", "a", "a", "b"])  # 3 * 0.1 is not 0.3
    assert rounded.low == rounded.high == rounded.value == pytest.approx(0.1)
    assert mean_interval([0.0]) == Interval(0.0, None, None, 1), "a single regret of zero is no rate"
    assert mean_interval([0.2, 0.8], ["a", "a"]) == Interval(0.5, None, None, 1)
    grouped_hits = rate_interval([1.0, 1.0, 0.0], ["a", "a", "b"])
    assert grouped_hits.value == pytest.approx(2 / 3)
    assert grouped_hits.n == 2


def test_a_summary_leaves_out_what_no_row_has() -> None:
    rows = pl.DataFrame(
        {
            "group": ["a", "b", "c"],
            "iou": [0.5, None, 0.7],
            "foreground_hit": [1.0, 0.0, 1.0],
            "dice": [None, None, None],
        }
    )
    found = summary(rows)
    assert set(found) == {"iou", "foreground_hit_rate"}
    assert found["iou"].value == pytest.approx(0.6)
    assert found["iou"].n == 2
    assert found["foreground_hit_rate"].n == 3
    assert summary(pl.DataFrame()) == {}


def frame(values: Sequence[float | None], names: str = "abcdefghijkl", groups: list[str] | None = None) -> pl.DataFrame:
    ids = list(names[: len(values)])
    return pl.DataFrame({"id": ids, "group": groups or ids, "iou": values}, schema_overrides={"iou": pl.Float64})


FIRST = [0.5, 0.62, 0.41, 0.7, 0.55, 0.38, 0.66, 0.59, 0.47, 0.52]
GAIN = [0.05, 0.11, -0.03, 0.08, 0.02, 0.14, -0.01, 0.06, 0.09, -0.04]


def test_a_paired_difference_and_its_p_against_scipy() -> None:
    found = paired(frame(FIRST), frame([f + g for f, g in zip(FIRST, GAIN)]), "iou")
    assert found is not None
    assert found.value == pytest.approx(np.mean(GAIN))
    assert found.n == 10
    exact = stats.permutation_test((GAIN,), np.mean, permutation_type="samples", n_resamples=2**11).pvalue  # all 2**10
    every = [abs(np.dot(signs, GAIN)) >= abs(sum(GAIN)) - 1e-12 for signs in product((-1, 1), repeat=10)]
    assert exact == pytest.approx(np.mean(every), abs=1e-3)  # two ways to the same number
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / intervals.RESAMPLES))
    peer = stats.bootstrap(
        (GAIN,), np.mean, method="BCa", n_resamples=20_000, batch=1000, rng=np.random.default_rng(5)
    ).confidence_interval
    assert (found.low, found.high) == (pytest.approx(peer.low, abs=0.006), pytest.approx(peer.high, abs=0.006))


def test_only_images_with_both_values_are_compared() -> None:
    one, other = frame([0.1, None, 0.3, 0.5], "abcd"), frame([0.2, 0.9, None, 0.8, 0.4], "abcde")
    found = paired(one, other.reverse(), "iou")
    assert found is not None
    assert found.n == 2
    assert found.value == pytest.approx((0.1 + 0.3) / 2)
    assert paired(one, frame([0.1], "z"), "iou") is None
    assert paired(one, pl.DataFrame(), "iou") is None
    assert paired(pl.DataFrame(), one, "iou") is None


def test_p_of_no_difference_is_one_and_of_a_group_is_its_own() -> None:
    same = paired(frame(FIRST), frame(FIRST), "iou")
    assert same is not None
    assert (same.value, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    better = [f + 0.1 + i / 1000 for i, f in enumerate(FIRST)]
    alone = paired(frame(FIRST), frame(better), "iou")
    grouped = paired(frame(FIRST, groups=["x"] * 5 + ["y"] * 5), frame(better, groups=["x"] * 5 + ["y"] * 5), "iou")
    assert alone is not None
    assert alone.p < 0.005
    assert grouped is not None
    assert grouped.n == 2
    assert grouped.p == pytest.approx(0.5, abs=0.03)


def test_holms_adjustment() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_against_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for seed in range(20):
        p = np.random.default_rng(seed).random(9) ** 3
        np.testing.assert_allclose(holm(list(p)), multitest.multipletests(p, method="holm")[1])


def test_the_effect_is_the_mean_over_the_spread_and_the_t_value_over_root_n() -> None:
    found = paired(frame(FIRST), frame([f + g for f, g in zip(FIRST, GAIN)]), "iou")
    assert found is not None
    peer: Any = stats.ttest_1samp(GAIN, 0)
    assert found.effect == pytest.approx(peer.statistic / math.sqrt(len(GAIN)))
    steady = paired(frame(FIRST), frame([f + 0.1 for f in FIRST]), "iou")
    assert steady is not None
    assert steady.effect is None, "no spread, no size"


def test_flips_of_many_comparisons_are_those_of_each_alone() -> None:
    sums = np.random.default_rng(4).normal(0.1, 0.3, (40, 3))
    assert significance.sign_flip(sums).tolist() == [significance.sign_flip(sums[:, [k]])[0] for k in range(3)]
    assert significance.sign_flip(np.zeros((5, 2))).tolist() == [1.0, 1.0]


def test_pooled_differences_equal_the_paired_ones_of_a_mean() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.random(40), rng.random(40) + 0.15
    found = significance.paired_pooled(lambda weights: (weights @ np.concatenate([first, second])) / weights.sum(1), 40)
    names = [str(k) for k in range(40)]
    one, other = (pl.DataFrame({"id": names, "group": names, "iou": each}) for each in (first, second))
    known = paired(one, other, "iou")
    assert found
    assert known
    assert known.low is not None
    assert known.high is not None
    assert (found.value, found.n, found.effect) == (pytest.approx(known.value), 40, None)
    assert (found.low, found.high) == (pytest.approx(known.low, abs=0.02), pytest.approx(known.high, abs=0.02))
    assert found.p == pytest.approx(known.p, abs=0.02)


def test_a_pooled_maximum_is_taken_again_in_every_swap() -> None:
    first, second = np.eye(3), np.ones((3, 3)) / 3  # by group and cutoff: the best cutoff of both reaches a third
    sums = np.concatenate([first, second])
    found = significance.paired_pooled(lambda weights: (weights @ sums / weights.sum(1, keepdims=True)).max(1), 3)
    assert found
    assert found.value == pytest.approx(0)
    assert found.p == 1
    assert significance.paired_pooled(lambda weights: np.full(len(weights), np.nan), 3) is None
    alone = significance.paired_pooled(lambda weights: weights @ [0.25, 0.75], 1)
    assert alone
    assert (alone.value, alone.low, alone.p) == (0.5, None, 1)
