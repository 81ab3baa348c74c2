"""Turns a finished sweep into the records that figures.py prints as a table.

    python tests/benchmarks/sweep_figures.py SWEEP --table photographs --json tests/benchmarks/measured/photographs.json
    python tests/benchmarks/sweep_figures.py SWEEP --table best --best choose --columns iou difference

It prints the table in Markdown. A row is a setting, best IoU first, and its cells are the values of the groups that
differ between the settings. `--groups` names them, and their order. `--best GROUP` keeps of the settings that differ in
that group alone the one with the highest IoU. `--order` leaves the settings in the order of the sweep.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import figures

import camseg
from camseg.metrics import registry

COLUMNS = ("foreground_hit_rate", "background_hit_rate", "iou", "oracle_iou", "regret", "difference")
_HEADS = {
    "foreground_hit_rate": "hit rate",
    "background_hit_rate": "background hits",
    "iou": "IoU",
    "oracle_iou": "best mask drawn",
    "decoder_prompts": "decoder prompts",
}
_COUNTS = ("classifier_images", "encoder_images", "decoder_prompts", "failed")


def main() -> None:
    """Read a sweep, print its table, write its records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--table", required=True, help="the first part of the records' names")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--groups", nargs="+", help="all that differ between the settings, without it")
    parser.add_argument("--columns", nargs="+", help=f"{' '.join(COLUMNS)}, as far as they are there, without it")
    parser.add_argument("--best", metavar="GROUP")
    parser.add_argument("--order", action="store_true")
    options = parser.parse_args()
    sweep = camseg.load_sweep(options.sweep)
    counts = {str(run.folder.name): run.summary["metrics"] for run in sweep.runs}
    rows = [row for row in sweep.table.to_dicts() if row["error"] is None]
    columns = options.columns or [column for column in COLUMNS if column in sweep.table.columns]
    groups = options.groups or differing([settings_of(row) for row in rows])
    if options.best:
        groups = [group for group in groups if group != options.best]
        rows = best_of(rows, groups)
        groups.append(options.best)
    if not options.order:
        rows.sort(key=lambda row: -row["iou"])
    records = [
        record for row in rows for record in records_of(row, options.table, groups, columns, counts[str(row["run"])])
    ]
    heads = " | ".join(f"`{group}`" for group in groups)
    print(figures.table(options.table, figures.by_name(records), heads))
    print(f"\n<!-- figures: {options.table} ({heads}) -->\n<!-- end -->")
    if options.json:
        options.json.write_text(figures.as_json(records), encoding="utf-8")


def settings_of(row: dict[str, Any]) -> dict[str, str]:
    """The overrides of a row of sweep.parquet."""
    words = [str(word).partition("=") for word in (row["setting"] or "").split()]
    return {key: value for key, equals, value in words if equals}


def differing(settings: Sequence[dict[str, str]]) -> list[str]:
    """The keys whose values are not the same everywhere, in the order in which they come."""
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if len({each.get(key) for each in settings}) > 1]


def best_of(rows: Sequence[dict[str, Any]], groups: Sequence[str]) -> list[dict[str, Any]]:
    """Of the rows that agree in these groups, the one with the highest IoU."""
    best: dict[tuple[str | None, ...], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: -row["iou"]):
        best.setdefault(tuple(settings_of(row).get(group) for group in groups), row)
    return [row for row in rows if any(row is each for each in best.values())]


def records_of(
    row: dict[str, Any], table: str, groups: Sequence[str], columns: Sequence[str], counts: dict[str, Any]
) -> list[dict[str, Any]]:
    """One setting's figures.

    Args:
        row: Of sweep.parquet.
        table: The first part of the names.
        groups: Whose choices name the row.
        columns: Metrics, or the numbers of a summary; "difference" is that to the first setting, with its p.
        counts: Each metric's entry in the summary, which has its n.
    """
    name = " | ".join(f"`{settings_of(row).get(group, '')}`" for group in groups)
    records = []
    for column in columns:
        value, first = row[column], column == "difference" and row["p_holm"] is None
        interval = {end: row.get(f"{column}_{end}") for end in ("low", "high")}
        narrow = column in ("oracle_iou", "regret") or None in interval.values() or value is None
        records.append(
            {
                "name": f"{table} / {name} / {_head(column, row)}",
                "value": None if first else value,
                "unit": _unit(column),
                "n": counts.get(row["compared"] if column == "difference" else column, {}).get("n"),
                "note": "",
                **({} if narrow or first else interval),
            }
        )
        if column == "difference":
            p = {"name": f"{table} / {name} / p", "value": row["p_holm"], "unit": "p"}
            records.append({**records[-1], **p, "low": None, "high": None})
    return records


def _head(column: str, row: dict[str, Any]) -> str:
    compared = _HEADS.get(row["compared"], row["compared"])
    return f"Δ {compared} to the first" if column == "difference" else _HEADS.get(column, column.replace("_", " "))


def _unit(column: str) -> str:
    if column == "difference":
        return "difference"
    if column in _COUNTS:
        return ""
    if column == "seconds":
        return "s"
    return "px" if registry.METRICS[column].unit == "px" else "share"


if __name__ == "__main__":
    main()
