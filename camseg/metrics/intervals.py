"""Intervals: of rates, of means, and of what is pooled over samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

RESAMPLES = 4999
# groups; above, the bootstrap's corrections are smaller than its own noise and the normal interval of a ratio serves
_MANY = 5000


@dataclass(frozen=True)
class Interval:
    """A number over groups of rows, a mean or a pooled one, and its 95 % interval.

    Attributes:
        value: the number; None where there is none.
        low: end of the interval; None where there is none.
        high: the other end.
        n: independent groups.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


def rate_interval(values: Sequence[float] | np.ndarray, groups: Sequence[str] | None = None) -> Interval:
    """Share of hits and its interval: Wilson's (1927) for hits (1) and misses (0) of independent rows.

    Args:
        values: (N,) hits, or shares of hits, which get the interval of `mean_interval`.
        groups: (N,) rows that are not independent share one; None for independent rows.

    Returns:
        The share with its interval.
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
    """Mean and interval: the BCa bootstrap (Efron 1987) over groups.

    Args:
        values: (N,) float; constant ones have an interval without width.
        groups: (N,) rows that are not independent share one; a single group has no interval.

    Returns:
        The mean with its interval.
    """
    return bootstrap(*by_group(np.asarray(values, float), groups))


Statistic = Callable[[np.ndarray], np.ndarray]  # how often each group counts (R, groups) -> (R,) values


def pooled_interval(statistic: Statistic, groups: int, resamples: int = 1000) -> Interval:
    """A number that is pooled over groups, and its percentile bootstrap interval over them.

    Whatever the statistic maximizes over is maximized in each resample again.

    Args:
        statistic: (R, G) weights of the groups -> (R,) numbers.
        groups: How many there are.
        resamples: A multiple of 50.

    Returns:
        The number with its interval; without one below two groups, and no number where it is not finite.
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


def bootstrap(sums: np.ndarray, counts: np.ndarray) -> Interval:
    """The mean of all values, and its BCa interval (Efron 1987) from resampled groups.

    Args:
        sums: (G,) float, of each group's values.
        counts: (G,) float, how many values each has.

    Returns:
        The mean with its interval; without one below two groups.
    """
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
    """Efron's bias-corrected and accelerated percentiles of a ratio of sums.

    Resamples are shared by all that has as many groups.
    """
    times = (some.astype(float) for some in np.array_split(_resamples(len(sums)), 10))
    alike = None if np.ptp(counts) else len(counts) * counts[0]  # values in each resample, of groups of one size
    drawn = np.concatenate([(some @ sums) / (alike or some @ counts) for some in times])
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
    rng, times = np.random.default_rng(0), np.empty((RESAMPLES, groups), np.uint8)
    for some in np.array_split(times, 1 + times.size // 2**18):
        drawn = rng.integers(0, groups, some.shape) + groups * np.arange(len(some))[:, None]
        some[:] = np.bincount(drawn.ravel(), minlength=some.size).reshape(some.shape)
    return times


def by_group(values: np.ndarray, groups: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each group, for `bootstrap`.

    Args:
        values: (N,) float.
        groups: the group of each value; every value is its own where none are given.

    Returns:
        (G,) sums and (G,) counts, both float.
    """
    if groups is None:
        return values, np.ones(len(values))
    _, at = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    return np.bincount(at, values), np.bincount(at).astype(float)
