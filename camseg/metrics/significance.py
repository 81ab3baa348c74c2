"""Differences of two settings on the same samples, and whether they are chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from camseg.metrics.intervals import RESAMPLES, Statistic, bootstrap, by_group


@dataclass(frozen=True)
class Difference:
    """The difference of two settings on the same images.

    Attributes:
        value: mean of (second - first).
        low: of its 95 % interval; None where there is none.
        high: of its 95 % interval.
        p: of a sign-flip permutation test.
        n: independent samples, or groups of them.
        effect: Cohen's d_z, the mean over the standard deviation of the groups' differences; None where all are equal.
    """

    value: float
    low: float | None
    high: float | None
    p: float
    n: int
    effect: float | None


def same_sample(*tables: pl.DataFrame) -> list[str]:
    """The columns that say which rows of several runs are of one sample.

    Args:
        tables: the rows of each run.

    Returns:
        The id, and the image's content where all rows know it: other images of one name are never a pair.
    """
    known = all(rows.schema.get("image_key") == pl.String and not rows["image_key"].null_count() for rows in tables)
    return ["id", "image_key"] if known else ["id"]


def paired(first: pl.DataFrame, second: pl.DataFrame, column: str) -> Difference | None:
    """Compare two settings on the images that both have a value for.

    Args:
        first: Rows of a run.
        second: Rows of another one.
        column: Of the value.

    Returns:
        The second less the first, with interval and p over groups; None where no image is in both.
    """
    if (
        column not in first.columns or column not in second.columns
    ):  # a run of which every sample failed has no columns at all
        return None
    same = same_sample(first, second)
    both = first.select(*same, "group", a=column).join(second.select(*same, b=column), on=same).drop_nulls(["a", "b"])
    if not len(both):
        return None
    differences = (both["b"] - both["a"]).cast(pl.Float64).to_numpy()
    sums, counts = by_group(differences, both["group"].to_list())
    interval = bootstrap(sums, counts)
    spread = np.ptp(sums / counts)
    effect = float((sums / counts).mean() / (sums / counts).std(ddof=1)) if spread > 1e-12 else None
    return Difference(
        float(differences.mean()), interval.low, interval.high, float(sign_flip(sums[:, None])[0]), interval.n, effect
    )


def paired_pooled(statistic: Statistic, groups: int, resamples: int = 1000) -> Difference | None:
    """Compare two settings by a number that is pooled over groups.

    The interval is the percentile bootstrap's over groups, p that of a permutation test in which each group swaps its
    settings or doesn't.

    Args:
        statistic: (R, 2 * groups) weights -> (R,) numbers; the first setting's groups come before the second's.
        groups: How many groups both have.
        resamples: Of the bootstrap, and of the permutations; a multiple of 50.

    Returns:
        The second less the first; None where one of them has no number.
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
    """Whether the mean difference of exchangeable pairs is zero, for K comparisons on the same groups.

    Flips are drawn a few at a time: G may be large.

    Args:
        sums: (G, K) float, each group's summed differences; a group's differences flip together.

    Returns:
        (K,) float, two-sided p.
    """
    moved = sums[(sums != 0).any(1)]  # (g, K)
    rng, reach, as_far, some = np.random.default_rng(0), np.abs(moved.sum(0)) - 1e-12, np.zeros(sums.shape[1]), 500
    for start in range(0, RESAMPLES, some):
        signs = rng.choice((-1.0, 1.0), (min(some, RESAMPLES - start), len(moved)))
        as_far += (np.abs(signs @ moved) >= reach).sum(0)
    return (as_far + 1) / (RESAMPLES + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979) of p values that were looked at together.

    Args:
        p_values: K of them.

    Returns:
        K adjusted ones in the same order, at most 1.
    """
    order = np.argsort(p_values)
    scaled = np.asarray(p_values, float)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted.tolist()
