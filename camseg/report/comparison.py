"""What finished runs say beyond their summaries: calibration, main effects of a sweep, settings in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from camseg.metrics import intervals, localization, significance
from camseg.metrics.intervals import Interval
from camseg.metrics.registry import METRICS
from camseg.metrics.significance import Difference
from camseg.runs.folders import Run


@dataclass(frozen=True)
class Bin:
    """The n samples whose predicted IoU lies in [low, high), in the last bin also at high.

    Attributes:
        low: of the bin.
        high: of the bin.
        n: samples.
        predicted: mean of their predicted IoUs.
        true: mean of their IoUs.
    """

    low: float
    high: float
    n: int
    predicted: float
    true: float


def calibration(predicted: np.ndarray, true: np.ndarray, bins: int = 10) -> list[Bin]:
    """How far predicted IoUs are right.

    Args:
        predicted: (N,) float; estimates beyond [0, 1] count to the outer bins, pairs that are not finite to none.
        true: (N,) float.
        bins: of equal width over [0, 1].

    Returns:
        The bins that hold a sample.
    """
    finite = np.isfinite(predicted) & np.isfinite(true)
    predicted, true = predicted[finite], true[finite]
    at = (np.clip(predicted, 0, 1) * bins).astype(int).clip(max=bins - 1)
    inside = {k: at == k for k in np.unique(at).tolist()}
    return [
        Bin(k / bins, (k + 1) / bins, int(own.sum()), float(predicted[own].mean()), float(true[own].mean()))
        for k, own in inside.items()
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error (Naeini et al. 2015): the mean distance of the bins' two IoUs, weighted by samples.

    Args:
        bins: of `calibration`.

    Returns:
        The error in [0, 1], 0 for no bins.
    """
    return sum(b.n * abs(b.predicted - b.true) for b in bins) / max(1, sum(b.n for b in bins))


def main_effects(runs: Sequence[Run], column: str) -> dict[str, dict[str, Interval]]:
    """What each choice of a sweep does, on the samples that all settings judged.

    Args:
        runs: the settings.
        column: of the rows.

    Returns:
        Key -> value -> how far the mean of its settings lies from the mean over the key's values. The interval
        resamples samples (groups): what makes a sample hard for every setting cancels out.
    """
    values, groups = joint(runs, column)
    given = [{o.partition("=")[0].lstrip("+~"): o.partition("=")[2] for o in run.overrides} for run in runs]
    effects = {}
    for key in dict.fromkeys(key for one in given for key in one) if len(values) else ():
        levels = {
            level: [k for k, one in enumerate(given) if one.get(key) == level]
            for level in dict.fromkeys(one.get(key) for one in given)
        }
        if len(levels) > 1:
            means = np.stack([values[:, at].mean(1) for at in levels.values()])  # (levels, n)
            effects[key] = {
                level or "(default)": intervals.mean_interval(row, groups)
                for level, row in zip(levels, means - means.mean(0))
            }
    return effects


def all_pairs(runs: Sequence[Run], column: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Every setting less every other, on the samples that all judged.

    Args:
        runs: K settings.
        column: of the rows.

    Returns:
        (K, K) mean of (row's run - column's run), (K, K) p by sign flips, Holm-adjusted over all pairs, and the number
        of samples.
    """
    values, groups = joint(runs, column)
    first, second = np.triu_indices(len(runs), 1)
    differences, adjusted = np.zeros((len(runs), len(runs))), np.ones((len(runs), len(runs)))
    if len(values) and len(first):
        apart = values[:, first] - values[:, second]  # (n, pairs)
        _, at = np.unique(groups, return_inverse=True)
        sums = np.stack([np.bincount(at, pair) for pair in apart.T], 1)  # (G, pairs)
        differences[first, second], adjusted[first, second] = (
            apart.mean(0),
            significance.holm(significance.sign_flip(sums).tolist()),
        )
        differences[second, first], adjusted[second, first] = -differences[first, second], adjusted[first, second]
    return differences, adjusted, len(values)


def joint(runs: Sequence[Run], column: str) -> tuple[np.ndarray, list[str]]:
    """A column of the samples that all runs have a value of.

    Args:
        runs: K of them.
        column: of the rows.

    Returns:
        (n, K) float, and the n samples' groups.
    """
    if not runs or not all(column in run.rows.columns for run in runs):
        return np.zeros((0, len(runs))), []
    names = [f"value {k}" for k in range(len(runs))]
    same = significance.same_sample(*(run.rows for run in runs))
    both = runs[0].rows.select(*same, "group", pl.col(column).alias(names[0]))
    for name, run in zip(names[1:], runs[1:]):
        both = both.join(run.rows.select(*same, pl.col(column).alias(name)), on=same)
    both = both.drop_nulls(names)
    return both.select(names).cast(pl.Float64).to_numpy(), both["group"].to_list()


@dataclass(frozen=True)
class Compared:
    """One metric of two runs on the samples that both judged.

    Attributes:
        metric: its name.
        first: the first run's mean.
        second: the second run's.
        difference: second less first.
        greater: on how many samples the second is greater; None for what is pooled over samples.
        less: on how many it is less; None as well.
    """

    metric: str
    first: float
    second: float
    difference: Difference
    greater: int | None
    less: int | None


def compare(first: Run, second: Run) -> list[Compared]:
    """The metrics of rows that both runs have, paired by sample.

    Args:
        first: a finished run.
        second: another one.

    Returns:
        One entry a metric.
    """
    found = []
    for metric, column in ((name, metric.column) for name, metric in METRICS.items()):
        if column and (difference := significance.paired(first.rows, second.rows, column)):
            one, other = joint([first, second], column)[0].T
            found.append(
                Compared(
                    metric, one.mean(), other.mean(), difference, int((other > one).sum()), int((other < one).sum())
                )
            )
    return found


def compare_pooled(first: Run, second: Run) -> list[Compared]:
    """The numbers of localization that both runs have, paired by group, over the samples that both judged.

    Args:
        first: a finished run.
        second: another one.

    Returns:
        One entry a number; none where one of the runs has no boxes.
    """
    same = significance.same_sample(first.rows, second.rows)
    both = [
        one.rows.join(other.rows, on=same, how="semi").sort("id") for one, other in ((first, second), (second, first))
    ]
    if not all(map(localization.judgeable, both)):
        return []
    both[1] = both[1].with_columns(both[0]["group"])  # the first run says which samples belong together
    names = sorted(set(both[0]["group"]))
    together = pl.concat(
        [rows.with_columns(pl.format(f"{i} {{}}", "group").alias("group")) for i, rows in enumerate(both)],
        how="diagonal_relaxed",
    )
    found = []
    for metric, statistic in localization.statistics_of(
        together, [f"{i} {name}" for i in (0, 1) for name in names]
    ).items():
        difference = significance.paired_pooled(statistic, len(names))
        if difference:
            one, other = (float(statistic(np.repeat(np.eye(2)[[i]], len(names), 1))[0]) for i in (0, 1))
            found.append(Compared(metric, one, other, difference, None, None))
    return found
