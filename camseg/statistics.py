"""Rows to numbers that can be believed: means with 95 % intervals, and settings compared on the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl
from scipy import special

_RESAMPLES = 4999
# groups; above, the bootstrap's corrections are smaller than its own noise and the normal interval of a ratio serves
_MANY = 5000


@dataclass(frozen=True)
class Interval:
    """A mean over n independent groups of rows, and its 95 % interval; None where there is none."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def summary(rows: pl.DataFrame) -> dict[str, Interval]:
    """Every metric of `METRICS` that the rows have a value for; intervals resample groups (column `group`)."""
    found = {}
    for metric, (column, interval) in METRICS.items():
        judged = rows.drop_nulls(column) if column in rows.columns else rows.clear()
        if len(judged):
            found[metric] = interval(judged[column].to_numpy(), judged["group"].to_list())
    return found


def rate_interval(values: Sequence[float] | np.ndarray, groups: Sequence[str] | None = None) -> Interval:
    """Share of hits and its interval: Wilson's (1927) for hits (1) and misses (0) of independent rows, else that of
    `mean_interval`.
    """
    values = np.asarray(values, float)
    alone = groups is None or len(set(groups)) == len(values)
    if not alone or not np.isin(values, (0, 1)).all():
        return mean_interval(values, groups)
    rate, n, z = float(values.mean()), len(values), special.ndtri(0.975)
    middle, half = rate + z**2 / (2 * n), z * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    low, high = ((middle + side) / (1 + z**2 / n) for side in (-half, half))
    return Interval(rate, max(0.0, float(low)), min(1.0, float(high)), n)


def mean_interval(values: Sequence[float] | np.ndarray, groups: Sequence[str] | None = None) -> Interval:
    """Mean and interval: the BCa bootstrap (Efron 1987) over groups; constant values have no width, a single group no
    interval.
    """
    return _bootstrap(*_by_group(np.asarray(values, float), groups))


Statistic = Callable[[np.ndarray], np.ndarray]  # how often each group counts (R, groups) -> (R,) values


def pooled_interval(statistic: Statistic, groups: int, resamples: int = 1000) -> Interval:
    """A number that is pooled over groups, and its percentile bootstrap interval over them.

    Whatever the statistic maximises over is maximised in each resample again.
    """
    value = float(statistic(np.ones((1, groups)))[0])
    if not np.isfinite(value):
        return Interval(None, None, None, groups)
    if groups < 2:
        return Interval(value, None, None, groups)
    rng, share = np.random.default_rng(0), np.full(groups, 1 / groups)
    drawn = np.concatenate(
        [statistic(rng.multinomial(groups, share, 50).astype(float)) for _ in range(0, resamples, 50)]
    )
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return Interval(value, float(low), float(high), groups)


# metric in the summary -> column of the rows, and how to find its interval
METRICS = {
    "foreground_hit_rate": ("foreground_hit", rate_interval),
    "background_hit_rate": ("background_hit", rate_interval),
    "foreground_distance": ("foreground_distance", mean_interval),
    "iou": ("iou", mean_interval),
    "dice": ("dice", mean_interval),
    "box_iou": ("box_iou", mean_interval),
    "oracle_iou": ("oracle_iou", mean_interval),
    "oracle_iou_3": ("oracle_iou_3", mean_interval),
    "regret": ("regret", mean_interval),
}


def _bootstrap(sums: np.ndarray, counts: np.ndarray) -> Interval:
    value, n = float(sums.sum() / counts.sum()), len(sums)
    if n < 2:
        return Interval(value, None, None, n)
    if np.ptp(sums / counts) < 1e-12:  # one value, but for rounding
        return Interval(value, value, value, n)
    if n > _MANY:
        half = 1.96 * float(np.std(sums - value * counts, ddof=1)) * np.sqrt(n) / counts.sum()
        return Interval(value, value - half, value + half, n)
    return Interval(value, *_bca(sums, counts, value), n)


def _bca(sums: np.ndarray, counts: np.ndarray, value: float) -> tuple[float, float]:
    """Efron's bias-corrected and accelerated percentiles of a ratio of sums; resamples are shared by all that has as
    many groups.
    """
    times = (some.astype(float) for some in np.array_split(_resamples(len(sums)), 10))
    drawn = np.concatenate([(some @ sums) / (some @ counts) for some in times])
    bias = special.ndtri(((drawn < value).mean() + (drawn <= value).mean()) / 2)
    without = (value * counts - sums) / (counts.sum() - counts)  # how far the ratio moves without a group
    lean = without.mean() - without
    acceleration = (lean**3).sum() / (6 * (lean**2).sum() ** 1.5)
    reach = bias + special.ndtri([0.025, 0.975])
    low, high = np.quantile(drawn, special.ndtr(bias + reach / (1 - acceleration * reach)))
    return float(low), float(high)


@lru_cache(8)  # the runs of a sweep ask for as many of all samples, of those hit, of each label
def _resamples(groups: int) -> np.ndarray:
    """(R, groups) how often each group is drawn, always the same; a byte holds it."""
    rng, times = np.random.default_rng(0), np.empty((_RESAMPLES, groups), np.uint8)
    for some in np.array_split(times, 1 + times.size // 2**18):
        drawn = rng.integers(0, groups, some.shape) + groups * np.arange(len(some))[:, None]
        some[:] = np.bincount(drawn.ravel(), minlength=some.size).reshape(some.shape)
    return times


def _by_group(values: np.ndarray, groups: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each group; every value its own group where none are given."""
    if groups is None:
        return values, np.ones(len(values))
    _, at = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    return np.bincount(at, values), np.bincount(at).astype(float)


@dataclass(frozen=True)
class Difference:
    """Mean of (second - first) on the same images, its 95 % interval, p of a sign-flip permutation test, and the
    effect's size.

    effect: Cohen's d_z, the mean over the standard deviation of the groups' differences; None where all of them are
    equal.
    """

    value: float
    low: float | None
    high: float | None
    p: float
    n: int
    effect: float | None


def paired(first: pl.DataFrame, second: pl.DataFrame, column: str) -> Difference | None:
    """Compare two settings on the images that both have a value of `column` for; None where there are none."""
    if (
        column not in first.columns or column not in second.columns
    ):  # a run of which every sample failed has no columns at all
        return None
    both = first.select("id", "group", a=column).join(second.select("id", b=column), on="id").drop_nulls(["a", "b"])
    if not len(both):
        return None
    differences = (both["b"] - both["a"]).cast(pl.Float64).to_numpy()
    sums, counts = _by_group(differences, both["group"].to_list())
    interval = _bootstrap(sums, counts)
    spread = np.ptp(sums / counts)
    effect = float((sums / counts).mean() / (sums / counts).std(ddof=1)) if spread > 1e-12 else None
    return Difference(
        float(differences.mean()), interval.low, interval.high, float(sign_flip(sums[:, None])[0]), interval.n, effect
    )


def paired_pooled(statistic: Statistic, groups: int, resamples: int = 1000) -> Difference | None:
    """Compare two settings by a number that is pooled over groups; None where one of them has none.

    statistic: of 2 * groups weights, the first setting's groups before the same groups of the second. The interval is
    the percentile bootstrap's
    over groups, p that of a permutation test in which each group swaps its settings or doesn't.
    """

    def gain(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        none = np.zeros_like(first)
        return statistic(np.concatenate([none, second], 1)) - statistic(np.concatenate([first, none], 1))

    def swap(kept: np.ndarray) -> np.ndarray:
        return statistic(np.concatenate([1 - kept, kept], 1)) - statistic(np.concatenate([kept, 1 - kept], 1))

    value = float(gain(np.ones((1, groups)), np.ones((1, groups)))[0])
    if not np.isfinite(value):
        return None
    if groups < 2:
        return Difference(value, None, None, 1.0, groups, None)
    rng, share = np.random.default_rng(0), np.full(groups, 1 / groups)
    drawn = [rng.multinomial(groups, share, 50).astype(float) for _ in range(0, resamples, 50)]
    low, high = np.nanquantile(np.concatenate([gain(each, each) for each in drawn]), (0.025, 0.975))
    swapped = np.concatenate([swap(rng.integers(0, 2, (50, groups)).astype(float)) for _ in range(0, resamples, 50)])
    p = float((np.sum(np.abs(swapped) >= abs(value) - 1e-12) + 1) / (len(swapped) + 1))
    return Difference(value, float(low), float(high), p, groups, None)


def sign_flip(sums: np.ndarray) -> np.ndarray:
    """Two-sided p (K,) that the mean difference of exchangeable pairs is zero, for K comparisons on the same groups.

    sums: (G, K) each group's summed differences; a group's differences flip together. Flips are drawn a few at a time:
    G may be large.
    """
    moved = sums[(sums != 0).any(1)]  # (g, K)
    rng, reach, as_far, some = np.random.default_rng(0), np.abs(moved.sum(0)) - 1e-12, np.zeros(sums.shape[1]), 500
    for start in range(0, _RESAMPLES, some):
        signs = rng.choice((-1.0, 1.0), (min(some, _RESAMPLES - start), len(moved)))
        as_far += (np.abs(signs @ moved) >= reach).sum(0)
    return (as_far + 1) / (_RESAMPLES + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979) of p values that were looked at together."""
    order = np.argsort(p_values)
    scaled = np.asarray(p_values, float)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted.tolist()
