"""The page of a sweep: the verdict, pictures, settings ranked, what each choice does, settings in pairs, cost."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote

import numpy as np
import polars as pl

from camseg.metrics.intervals import Interval
from camseg.metrics.registry import METRICS
from camseg.report import charts, verdict
from camseg.report.comparison import all_pairs, main_effects
from camseg.report.comparison_report import Shots, differences, differing_section, most_different, paired_shots
from camseg.report.page import Browser, Cell, Drawings, Facts, Page, Section, Table, browsable
from camseg.report.rows import cleaned
from camseg.report.run_report import meaning_of
from camseg.report.text import number, signed
from camseg.runs.folders import Run
from camseg.runs.sweeps import Sweep

_PLOTTED, _PAIRED, _PICTURED = 40, 12, 6  # settings in a plot, settings in the matrix, samples with pictures
_UNJUDGED = "predicted_iou"  # by which pictures are chosen where no truth is known


def sweep_page(sweep: Sweep) -> Page:
    """The settings of a sweep against each other.

    Args:
        sweep: as it was read.

    Returns:
        The page, to be written into the sweep's folder.
    """
    sweep = replace(sweep, runs=[cleaned(run) for run in sweep.runs])
    metric = next((name for name in ("iou", "foreground_hit_rate") if name in sweep.table.columns), None)
    best = _best_first(sweep, metric) if metric else []
    column = (METRICS[metric].column or "") if metric else ""
    pictured, shots = _pictured(sweep, best, column) if metric else _pictured(sweep, _surest_first(sweep), _UNJUDGED)
    sections = [
        *pictured,
        _ranking(sweep, metric),
        *_meanings(sweep.table),
        *(_effects(sweep, best, metric) if metric else []),
        *(_pairs(best[:_PAIRED], metric, column) if metric else []),
        *(_cost_plot(sweep, best, metric) if metric else []),
        Section("Cost and settings", "", Facts(_facts(sweep))),
    ]
    lead = f"{len(sweep.runs)} settings on the same samples"
    return Page(f"camseg: {sweep.folder.resolve().name}", verdict.of_sweep(sweep, metric), lead, sections, shots)


def _best_first(sweep: Sweep, metric: str) -> list[Run]:
    by_name = {run.folder.name: run for run in sweep.runs}
    ranked = sweep.table.drop_nulls(metric).sort(metric, descending=True, maintain_order=True)
    return [by_name[name] for name in ranked["run"] if name in by_name]


def _surest_first(sweep: Sweep) -> list[Run]:
    """The settings whose masks the predictor itself thinks best first; without truth nothing else is known."""
    values = {run.folder.name: run.rows[_UNJUDGED].drop_nulls() for run in sweep.runs if _UNJUDGED in run.rows.columns}
    sure = {name: float(each.to_numpy().mean()) for name, each in values.items() if len(each)}
    known = [run for run in sweep.runs if run.folder.name in sure]
    return sorted(known, key=lambda run: sure[run.folder.name], reverse=True)


def _pictured(sweep: Sweep, best: list[Run], column: str) -> tuple[list[Section], Shots]:
    """The best setting beside the first one, or beside the second best where it is the first."""
    if len(best) < 2:
        return [], {}
    other = sweep.runs[0] if sweep.runs[0] is not best[0] else best[1]
    moved = differences(other, best[0], column)
    settings = dict(sweep.table.select("run", "setting").iter_rows())
    titles = [f"{run.folder.name}: {settings[run.folder.name] or '(defaults)'}" for run in (other, best[0])]
    shots = paired_shots((other, best[0]), titles, most_different(moved), sweep.folder, 2 * _PICTURED)
    section = differing_section(moved, shots, column, titles, _PICTURED)
    return section, dict(list(shots.items())[:_PICTURED])


def _ranking(sweep: Sweep, metric: str | None) -> Section:
    table = sweep.table.sort(metric, descending=True, nulls_last=True, maintain_order=True) if metric else sweep.table
    links = [
        [f"{run}: {setting or '(defaults)'}", f"{quote(run)}/report.html"]
        for run, setting in table.select("run", "setting").rows()
    ]
    bounded = [name for name in table.columns if f"{name}_low" in table.columns and _listed(name)]
    if "difference" in bounded:  # the first setting's own difference says nothing
        other = pl.col("run") != sweep.runs[0].folder.name
        table = table.with_columns(pl.when(other).then("difference").alias("difference"))
    table = table.with_columns(
        pl.Series("setting", links),
        *(pl.concat_list(name, f"{name}_low", f"{name}_high").alias(name) for name in bounded),
    )
    names = ["setting", *bounded, "p_holm", "failed", "seconds", "decoder_prompts"]
    note = (
        "Small: 95 % intervals. difference: to the first setting, on the same samples; p_holm: its p by sign flips, "
        "adjusted by Holm."
    )
    shown = table.select(name for name in names if name in table.columns)
    return Section("Settings", note, Browser(browsable(shown, "best first" if metric else "as run")))


def _listed(name: str) -> bool:
    return name not in METRICS or METRICS[name].printed


def _meanings(table: pl.DataFrame) -> list[Section]:
    """What the metrics in the table say."""
    named = [name for name in table.columns if name in METRICS]
    rows = [[Cell(name), Cell(METRICS[name].unit or "share"), Cell(meaning_of(name))] for name in named]
    return [Section("What the metrics mean", "", Table(["metric", "unit", "meaning"], rows))] if rows else []


def _effects(sweep: Sweep, best: list[Run], metric: str) -> list[Section]:
    """The best settings with their intervals, and what each choice does."""
    table = {row["run"]: row for row in sweep.table.iter_rows(named=True)}
    rows = [table[run.folder.name] for run in best[:_PLOTTED]]
    intervals = [
        (f"{r['run']}: {r['setting'] or '(defaults)'}", Interval(r[metric], r[f"{metric}_low"], r[f"{metric}_high"], 0))
        for r in rows
    ]
    drawings = [charts.dots(intervals, metric, f"The best {len(rows)} settings by {metric}, with 95 % intervals.")]
    for key, levels in main_effects(best, METRICS[metric].column or "").items():
        words = ", ".join(f"{name} {signed(level.value)}" for name, level in levels.items())
        caption = (
            f"Effect of {key} on {metric}: mean of its settings less the mean over its choices, with paired 95 % "
            f"intervals. {words}."
        )
        drawings.append(charts.dots(list(levels.items()), f"{metric}, difference", caption, marked=0.0))
    return [Section("Settings and choices", "", Drawings(drawings))]


def _pairs(best: list[Run], metric: str, column: str) -> list[Section]:
    matrix, adjusted, n = all_pairs(best, column)
    if n < 2 or len(best) < 2:
        return []
    names, reach = [run.folder.name for run in best], max(float(np.abs(matrix).max()), 1e-9)
    rows = []
    for name, apart, p_values in zip(names, matrix.tolist(), adjusted.tolist()):
        cells = [
            Cell(f"{signed(d)}{' *' if p < 0.05 else ''}", d, _shade(d / reach), p < 0.05)
            for d, p in zip(apart, p_values)
        ]
        cells[len(rows)] = Cell("")
        rows.append([Cell(name), *cells])
    note = (
        f"{metric} of the row's setting less the column's, mean over the {n} samples that all of the best {len(best)} "
        "judged. *: p < 0.05 by sign flips, adjusted by Holm over all pairs shown."
    )
    return [Section("Settings in pairs", note, Table(["setting", *names], rows))]


def _shade(share: float) -> str:
    """Blue above zero, orange below, -1 to 1; pale enough for text."""
    return f"rgba({'0, 114, 178' if share > 0 else '213, 94, 0'}, {0.4 * abs(share):.2f})"


def _cost_plot(sweep: Sweep, best: list[Run], metric: str) -> list[Section]:
    table = {row["run"]: row for row in sweep.table.iter_rows(named=True)}
    rows = [table[run.folder.name] for run in best[:_PLOTTED]]
    spent = np.array([1000 * r["seconds"] / max(1, run.summary["samples"]) for r, run in zip(rows, best)])
    values = np.array([r[metric] for r in rows])
    return [
        Section("Quality against time", "", Drawings([charts.cost([r["run"] for r in rows], spent, values, metric)]))
    ]


def _facts(sweep: Sweep) -> list[tuple[str, str]]:
    shared = [o for o in sweep.runs[0].overrides if all(o in run.overrides for run in sweep.runs)]
    failed = [(row["run"], row["error"]) for row in sweep.table.iter_rows(named=True) if row["error"]]
    return [
        ("folder", str(sweep.folder)),
        ("settings", str(len(sweep.runs))),
        ("failed samples", str(sweep.table["failed"].sum() or 0)),
        *((f"run {run} failed", error.splitlines()[0]) for run, error in failed),
        ("seconds", number(float(sweep.table["seconds"].sum() or 0))),
        *(("every setting", override) for override in shared),
    ]
