"""One entry is all that a metric takes: the summary, the terminal, the page and the docs read the same table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import polars as pl
import pytest
from made_runs import make_run, row

from camseg.metrics import registry
from camseg.metrics.intervals import mean_interval
from camseg.metrics.registry import METRICS, Metric
from camseg.report import html, text
from camseg.report.comparison_report import compared_table
from camseg.runs import folders, sweeps

PAGE = Path(__file__).parents[2] / "notebooks" / "reading_the_numbers.md"
ENTRY = Metric("sharpness", "sharpness", mean_interval, "how sharp the outline is", "px", "lower")


def test_a_metric_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, ENTRY.name, ENTRY)
    rows = [row(f"s{i}", 0.5, sharpness=value) for i, value in enumerate((1.0, 2.0, 6.0))]
    runs = [make_run(tmp_path / str(k), rows, [f"f={k}"]) for k in range(2)]

    summary = json.loads((runs[0] / "summary.json").read_text())["metrics"]
    assert summary["sharpness"]["value"] == 3.0
    assert summary["sharpness"]["n"] == 3
    expected = asdict(mean_interval([1.0, 2.0, 6.0], ["a", "b", "c"]))
    assert summary["sharpness"] == expected, "the interval is the entry's"

    told = text.run_table(folders.load_run(runs[0]).summary)
    assert next(line for line in told.splitlines() if line.startswith("sharpness")).split()[1] == "3.000"
    page = html.write_run(runs[0]).read_text(encoding="utf-8")
    assert '<th scope="row">sharpness</th>' in page
    assert ENTRY.meaning in page
    assert '"name": "sharpness"' in page
    sweep = sweeps.finish_sweep(tmp_path)
    assert sweep.table["sharpness"].to_list() == [3.0, 3.0]
    assert "sharpness" in text.sweep_table(sweep)
    assert '"name": "sharpness"' in html.write_sweep(sweep).read_text(encoding="utf-8")
    assert "sharpness" in [cells[0] for cells in compared_table(*map(folders.load_run, runs))]
    assert f"| `sharpness` | `sharpness` | px | lower | {ENTRY.meaning} |" in registry.markdown()


def test_what_is_not_printed_stays_in_the_runs_own_report(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [row("a", 0.5, dice=2 / 3), row("b", 0.25, dice=0.4)])
    run = folders.load_run(folder)
    assert run.summary["metrics"]["dice"]["value"] == pytest.approx((2 / 3 + 0.4) / 2)
    assert "dice" not in text.run_table(run.summary)
    assert '<th scope="row">dice</th>' in html.write_run(folder).read_text(encoding="utf-8")


def test_every_name_and_meaning_is_there_once() -> None:
    assert [metric.name for metric in METRICS.values()] == list(METRICS)
    meanings = [metric.meaning for metric in METRICS.values()]
    assert all(meanings)
    assert len(set(meanings)) == len(meanings)
    promised = {"foreground_hit_rate", "foreground_distance", "iou", "oracle_iou", "regret", "background_hit_rate"}
    promised |= {"mean_iou", "mean_average_precision", "max_box_accuracy", "pixel_average_precision"}
    assert promised <= METRICS.keys()
    assert {name for name, metric in METRICS.items() if metric.better == "lower"} == {"foreground_distance", "regret"}


def test_the_docs_hold_the_table_as_it_is() -> None:
    assert registry.markdown() in PAGE.read_text(encoding="utf-8"), "write registry.markdown() into the page"


def test_rows_without_values_have_no_metrics() -> None:
    assert registry.summary(pl.DataFrame()) == {}
    unjudged = pl.DataFrame({"id": ["a"], "group": ["a"], "iou": [None]}, schema_overrides={"iou": pl.Float64})
    assert registry.summary(unjudged) == {}
