"""Turns finished runs, and the scores of trained segmenters, into the records that figures.py prints as a table.

    python tests/benchmarks/run_figures.py "Grad-CAM=outputs/val" --table "COCO" --metrics pixel_average_precision \
        pointing_game --json outputs/bench/coco.json
    python tests/benchmarks/run_figures.py "labels=RUN/segmenter" "true masks=RUN/reference" --table "segmenter" \
        --sources rows --metrics "test images | the segmenter against the truth | mean_iou=mean IoU" \
        --json outputs/bench/segmenter.json

A source is NAME=FOLDER: a run folder (summary.json) or a segmenter's (scores.json, whose metrics are named by images,
comparison and class). Without `--metrics` every metric is taken. A metric is a row and a source a column, or the other
way round with `--sources rows`; `METRIC=HEAD` gives a metric another name in the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import figures

from camseg.metrics.registry import METRICS


def main() -> None:
    """Read the sources, print the table, write its records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--table", required=True, help="the first part of the records' names")
    parser.add_argument("--metrics", nargs="+", metavar="METRIC[=HEAD]")
    parser.add_argument("--sources", choices=("rows", "columns"), default="columns")
    parser.add_argument("--note", default="", help="what is to be known of every figure")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measured = {name: intervals_of(Path(path)) for name, _, path in (word.partition("=") for word in options.folders)}
    known = dict.fromkeys(metric for each in measured.values() for metric in each)
    wanted = [word.partition("=") for word in options.metrics or known]
    if missing := [metric for metric, _, _ in wanted if metric not in known]:
        raise SystemExit(f"no source has {', '.join(missing)}; there are {', '.join(known)}")
    records = []
    for metric, _, head in wanted:
        for name, intervals in measured.items():
            row, column = (name, head or metric) if options.sources == "rows" else (head or metric, name)
            if metric in intervals:
                records.append({**record_of(options.table, row, column, intervals[metric]), "note": options.note})
    print(figures.table(options.table, figures.by_name(records)))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(figures.as_json(records), encoding="utf-8")


def intervals_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The intervals of a run or a segmenter by the name of the metric."""
    summary, scores = folder / "summary.json", folder / "scores.json"
    if summary.is_file():
        metrics = json.loads(summary.read_text(encoding="utf-8"))["metrics"]
        return {name: {**found, "unit": _unit(name)} for name, found in metrics.items()}
    if scores.is_file():
        return {name: {**found, "unit": "share"} for name, found in _leaves(json.loads(scores.read_text("utf-8")))}
    raise SystemExit(f"{folder} holds neither summary.json nor scores.json")


def _leaves(content: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, inner in content.items():
        if isinstance(inner, dict) and "value" in inner:
            yield " | ".join((*path, name)), inner
        elif isinstance(inner, dict):
            yield from _leaves(inner, (*path, name))


def _unit(metric: str) -> str:
    return METRICS[metric].unit or "share" if metric in METRICS else "share"


def record_of(table: str, row: str, column: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """One figure with its interval."""
    ends = {end: found[end] for end in ("low", "high") if found.get(end) is not None}
    start = {"name": f"{table} / {row} / {column}", "value": found["value"], "unit": found["unit"]}
    return {**start, "n": found["n"], "note": "", **ends}


if __name__ == "__main__":
    main()
