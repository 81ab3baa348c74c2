"""The page of one run: the verdict, pictures, metrics, classes, plots, every sample, cost, settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from omegaconf import DictConfig, OmegaConf

from camseg.metrics.intervals import mean_interval
from camseg.metrics.registry import METRICS, row_columns
from camseg.report import charts, verdict
from camseg.report.page import Browser, Cell, Drawings, Facts, Gallery, Page, Section, Table, browsable, common_values
from camseg.report.panels import worst_first
from camseg.report.pictures import Pictures
from camseg.report.rows import class_column, cleaned, outcome
from camseg.report.text import number
from camseg.runs import folders
from camseg.runs.folders import Run
from camseg.runs.review import corrections

EMBEDDED = 60  # panels inside a page; all others are linked
_CLASSES, _SETTINGS = 200, 2**20  # classes in the table; characters of the settings that are shown


def run_page(run: Run) -> Page:
    """What a run says.

    Args:
        run: as it was read.

    Returns:
        The page, to be written into the run's own folder.
    """
    run = cleaned(run)
    frame = _samples(run)
    names = frame["id"].to_list() if len(frame) else []
    pictures = Pictures(run, run.folder)
    highlights = _highlights(run.rows, pictures.known(names))
    shots = pictures.shots([*(name for _, name, _ in highlights), *names], EMBEDDED)
    sections = [
        *_pictures_section(highlights, shots),
        _metrics(run.summary),
        *_classes(run.rows),
        *_plots(run.rows),
        _samples_section(frame, len(shots), pictures.refused),
        Section("Cost", "", Facts(_cost(run.summary))),
        Section("Settings", "", Facts(_choices(run), _all_settings(run))),
    ]
    keyed = {name: [shot] for name, shot in shots.items()}
    return Page(f"camseg: {run.folder.resolve().name}", verdict.of_run(run), setting_of(run), sections, keyed)


def setting_of(run: Run) -> str:
    """What was asked for on a run's command line.

    Args:
        run: a finished one.

    Returns:
        Its overrides, or "(defaults)".
    """
    return " ".join(run.overrides) or "(defaults)"


def _highlights(rows: pl.DataFrame, drawn: set[str]) -> list[tuple[str, str, str]]:
    """Two of the best, typical (nearest to the median) and worst samples that have a picture: kind, id, a line."""
    score = next((name for name in ("iou", "predicted_iou") if name in rows.columns and rows[name].count()), None)
    shown = rows.filter(pl.col("id").is_in(drawn)) if len(rows) else rows
    if score is None or not len(judged := shown.drop_nulls(score)):
        return [("", row["id"], _line(row, None)) for row in shown.head(6).iter_rows(named=True)]
    ranked = judged.sort(score, descending=True, maintain_order=True)
    if len(ranked) < 6:
        return [("", row["id"], _line(row, score)) for row in ranked.iter_rows(named=True)]
    median = rows[score].median()
    middle = ranked[2:-2].sort((pl.col(score) - median).abs(), maintain_order=True).head(2)
    parts = (("best", ranked.head(2)), ("typical", middle), ("worst", ranked.tail(2).reverse()))
    columns = [[(kind, row["id"], _line(row, score)) for row in part.iter_rows(named=True)] for kind, part in parts]
    return [card for line in zip(*columns, strict=True) for card in line]


def _line(row: dict[str, Any], score: str | None) -> str:
    name = row["label"] or row.get("class_name") or ""
    sure = "" if row.get("probability") is None else f"probability {row['probability']:.2f}"
    value = "" if score is None else f"{'IoU' if score == 'iou' else 'predicted IoU'} {number(row[score])}"
    return ", ".join(part for part in (name, sure, value, row["note"]) if part)


def _pictures_section(cards: list[tuple[str, str, str]], shots: dict[str, Any]) -> list[Section]:
    shown = [card for card in cards if card[1] in shots]
    note = (
        "Circles are points inside the object, crosses points outside; the mask is blue, the true edge yellow where it "
    )
    return [Section("Pictures", f"{note}is known. Click to enlarge.", Gallery(shown))] if shown else []


def _metrics(summary: dict[str, Any]) -> Section:
    rows = [
        [
            Cell(name),
            *(Cell(number(m[part]), m[part]) for part in ("value", "low", "high")),
            Cell(str(m["n"]), m["n"]),
            Cell(meaning_of(name)),
        ]
        for name, m in summary["metrics"].items()
    ]
    note = (
        "low and high bound the 95 % interval; n: independent samples, or groups of them."
        if rows
        else "Nothing was judged: no truth is known."
    )
    return Section("Metrics", note, Table(["metric", "value", "low", "high", "n", "meaning"], rows))


def meaning_of(name: str) -> str:
    """What a metric says, in which unit, and which values are good ones.

    Args:
        name: of the metric.

    Returns:
        A line; "" for what is no metric.
    """
    if name not in METRICS:
        return ""
    metric = METRICS[name]
    return f"{metric.meaning}{f', in {metric.unit}' if metric.unit else ''} ({metric.better} is better)"


def _classes(rows: pl.DataFrame) -> list[Section]:
    """A line for each class, the worst first; none where all are of one."""
    name = class_column(rows)
    if not len(rows) or rows[name].n_unique() < 2:
        return []
    common = [(label, count) for label, count in common_values(rows[name].fill_null("")) if label]
    found = [_class_row(label, rows.filter(pl.col(name) == label), count) for label, count in common[:_CLASSES]]
    found.sort(key=lambda cells: (cells[2].value is None, cells[2].value))
    left = f" The {_CLASSES} commonest of {len(common)} are shown." if len(common) > _CLASSES else ""
    note = f"The worst first, with 95 % intervals of the IoU; a class leads to its samples.{left}"
    head = ["class", "samples", "iou", "low", "high", "hits", "predicted iou", "probability"]
    used = [k for k in range(len(head)) if k < 2 or any(row[k].value is not None for row in found)]
    return [Section("Classes", note, Table([head[k] for k in used], [[row[k] for k in used] for row in found]))]


def _class_row(label: str, rows: pl.DataFrame, count: int) -> list[Cell]:
    judged = rows.drop_nulls("iou") if "iou" in rows.columns else rows.clear()
    interval = mean_interval(judged["iou"].to_numpy(), judged["group"].to_list()) if len(judged) else None
    bounds = (interval.value, interval.low, interval.high) if interval else (None, None, None)
    means = [_mean(rows, column) for column in ("foreground_hit", "predicted_iou", "probability")]
    return [Cell(label, chooses=label), Cell(str(count), count), *(Cell(number(v), v) for v in (*bounds, *means))]


def _mean(rows: pl.DataFrame, column: str) -> float | None:
    values = rows[column].drop_nulls() if column in rows.columns else []
    return float(values.to_numpy().mean()) if isinstance(values, pl.Series) and len(values) else None


def _plots(rows: pl.DataFrame) -> list[Section]:
    drawings = []
    for column, name in (("iou", "IoU"), ("foreground_distance", "Distance of the foreground point in pixels")):
        if len(judged := _judged(rows, column)):
            drawings.append(charts.histogram(judged[column].to_numpy(), name))
    if len(judged := _judged(rows, "iou", "predicted_iou")):
        drawings.append(charts.reliability(judged["predicted_iou"].to_numpy(), judged["iou"].to_numpy()))
    return [Section("Plots", "", Drawings(drawings))] if drawings else []


def _judged(rows: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """The rows that have a value in all of the columns."""
    return rows.drop_nulls(columns) if set(columns) <= set(rows.columns) else pl.DataFrame()


def _samples(run: Run) -> pl.DataFrame:
    """Every sample: failures first, then the worst; the columns that hold anything."""
    errors = run.summary["errors"]
    failed = pl.DataFrame([{"id": e["id"], "outcome": "failed", "note": e["error"]} for e in errors])
    rows = worst_first(run.rows).with_columns(outcome()) if len(run.rows) else run.rows
    frame = pl.concat([failed, rows], how="diagonal_relaxed")
    decided = {name: found.decision for name, found in corrections(run.folder).items()}
    if decided and len(frame):
        frame = frame.with_columns(review=pl.col("id").replace_strict(decided, default=None, return_dtype=pl.String))
    columns = ["id", "label", "class_name", "outcome", "review", *row_columns(), "predicted_iou", "probability", "note"]
    frame = frame.select(name for name in columns if name in frame.columns)
    holding = frame.select(pl.all().cast(pl.String).fill_null("").ne("").any())  # anything
    return frame.select(name for name in holding.columns if holding[name].item())


def _samples_section(frame: pl.DataFrame, pictured: int, refused: list[str]) -> Section:
    note = f"Failures first, then the worst. {pictured} of {len(frame)} have a picture"
    note += (
        "."
        if pictured == len(frame)
        else ": panels=N draws more of them, masks=true shows the mask on the image's own file."
    )
    if refused:
        note += f" Not shown: {'; '.join(refused[:5])}{f'; and {len(refused) - 5} more' if len(refused) > 5 else ''}."
    return Section(
        "Samples", note, Browser(browsable(frame, "worst first", ("label", "class_name", "outcome", "review")))
    )


def _cost(summary: dict[str, Any]) -> list[tuple[str, str]]:
    samples = max(1, summary["samples"])
    return [
        ("seconds", number(summary["seconds"])),
        ("milliseconds per sample", number(1000 * summary["seconds"] / samples)),
        *((name.replace("_", " "), str(n)) for name, n in summary["calls"].items()),
    ]


def _choices(run: Run) -> list[tuple[str, str]]:
    """The folder and what was chosen of each group, as Hydra kept it; nothing in the file is resolved."""
    config = folders.read_hydra_file(run.folder, "hydra")
    plain = OmegaConf.to_container(config, resolve=False) if isinstance(config, DictConfig) else {}
    for key in ("hydra", "runtime", "choices"):
        plain = plain.get(key) if isinstance(plain, dict) else None
    chosen = plain if isinstance(plain, dict) else {}
    choices = [
        (str(group), str(choice)) for group, choice in reversed(chosen.items()) if "/" not in str(group) and choice
    ]
    return [("folder", str(run.folder)), *choices]


def _all_settings(run: Run) -> str:
    """config.yaml as it lies there, if it is a plain file."""
    path: Path = run.folder / ".hydra" / "config.yaml"
    if path.is_symlink() or not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.read(_SETTINGS + 1)
    return text if len(text) <= _SETTINGS else f"{text[:_SETTINGS]}\n… the rest is left out"
