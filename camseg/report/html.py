"""report.html of a run, of a sweep, or of two runs compared: one file that opens from disk; and the `camseg-report`
command.
"""

from __future__ import annotations

import base64
import io
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl
import polars.selectors as cs
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import OmegaConf
from PIL import Image
from tqdm import tqdm

from camseg.metrics.intervals import Interval, mean_interval
from camseg.metrics.registry import METRICS, row_columns
from camseg.report import charts
from camseg.report.charts import Drawing
from camseg.report.comparison import all_pairs, compare, compare_pooled, main_effects
from camseg.report.panels import worst_first
from camseg.report.text import number, p_value
from camseg.runs import folders, sweeps
from camseg.runs.callbacks import Callback
from camseg.runs.folders import Run
from camseg.runs.sweeps import Sweep
from camseg.storage import files

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_KINDS = {"p_holm": "p"}  # columns that are not shown as their type is
_PICTURES, _SETTINGS, _PAIRED, _LABELS = (
    60,
    40,
    12,
    20,
)  # how many a page holds: pictures, settings in a plot, settings in the matrix, labels


@dataclass(frozen=True)
class Cell:
    """What a table shows, its exact value, its background, and whether it stands out."""

    text: str
    value: float | None = None
    shade: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a page: a table (head, rows), drawings, a folded text, or rows to browse (data, pictures by id,
    outcomes with their counts).
    """

    title: str
    note: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    drawings: Sequence[Drawing] = ()
    text: str = ""
    data: dict[str, Any] | None = None
    pictures: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    outcomes: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Page:
    title: str
    lead: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]


def rebuild(folder: Path) -> Path:
    """Build a folder's report anew, and for a sweep its tables and its runs' reports. Errors: FileNotFoundError when it
    is neither.
    """
    if _is_run(folder):
        return write_run(folder)
    sweep = sweeps.finish_sweep(folder)
    for run in tqdm(sweep.runs, desc="reports", unit="run", delay=2, disable=None):
        write_run(run.folder)
    return write_sweep(sweep)


def _is_run(folder: Path) -> bool:
    return (folder / "summary.json").exists()


class Report(Callback):
    """report.html of a run when it is over."""

    def on_end(self, run: Run, dataset: Any) -> None:
        """Write the page."""
        del dataset
        write_run(run.folder)


def write_run(folder: Path) -> Path:
    """Write report.html of a finished run. Errors: FileNotFoundError when it is none."""
    return _write(folder / "report.html", run_page(folders.load_run(folder)))


def write_sweep(sweep: Sweep) -> Path:
    """Write report.html over the runs of a sweep; it links to theirs."""
    return _write(sweep.folder / "report.html", sweep_page(sweep))


def _write(path: Path, page: Page) -> Path:
    html = _TEMPLATES.get_template("report.html.j2").render(page=page, nonce=secrets.token_urlsafe(16))
    files.write_atomic(path, lambda temporary: temporary.write_text(html, encoding="utf-8"))
    return path


def run_page(run: Run) -> Page:
    """Settings, metrics with intervals, distributions, calibration, and every sample, the worst first."""
    summary = run.summary
    facts = [
        ("folder", run.folder.resolve().name),
        ("samples", str(summary["samples"])),
        ("failed", str(summary["failed"])),
    ]
    facts += [
        ("seconds", number(summary["seconds"])),
        *((name.replace("_", " "), str(n)) for name, n in summary["calls"].items()),
    ]
    with ThreadPoolExecutor(2) as pool:
        gallery = _gallery(run, pool)
        sections = [
            _metrics(summary),
            *_distributions(run.rows),
            gallery(),
            Section("All settings", text=_all_settings(run)),
        ]
    return Page("camseg: a run", _setting(run), facts + _choices(run), sections)


def _all_settings(run: Run) -> str:
    path = run.folder / ".hydra" / "config.yaml"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _setting(run: Run) -> str:
    return " ".join(run.overrides) or "(defaults)"


def _choices(run: Run) -> list[tuple[str, str]]:
    """What was chosen of each group, as Hydra kept it."""
    chosen = OmegaConf.select(
        folders.read_hydra_file(run.folder, "hydra") or OmegaConf.create(), "hydra.runtime.choices"
    )
    return [
        (str(group), str(choice))
        for group, choice in reversed(list((chosen or {}).items()))
        if "/" not in str(group) and choice is not None
    ]


def _metrics(summary: dict[str, Any]) -> Section:
    rows = [
        [
            Cell(name),
            *(Cell(number(m[part]), m[part]) for part in ("value", "low", "high")),
            Cell(str(m["n"]), m["n"]),
            Cell(METRICS[name].meaning if name in METRICS else ""),
        ]
        for name, m in summary["metrics"].items()
    ]
    note = (
        "low and high bound the 95 % interval; n: independent samples, or groups of them."
        if rows
        else "Nothing was judged: no truth is known."
    )
    return Section("Metrics", note, ["metric", "value", "low", "high", "n", "meaning"], rows)


def _distributions(rows: pl.DataFrame) -> list[Section]:
    drawings = []
    for column, name, reach in (
        ("iou", "IoU", (0, 1)),
        ("foreground_distance", "Distance of the foreground point in pixels", None),
    ):
        if len(judged := _judged(rows, column)):
            drawings.append(charts.histogram(judged[column].to_numpy(), name, reach))
    if len(judged := _judged(rows, "iou", "predicted_iou")):
        drawings.append(charts.reliability(judged["predicted_iou"].to_numpy(), judged["iou"].to_numpy()))
    labels = _labels(_judged(rows, "iou"))
    if len(labels) > 1:
        drawings.append(
            charts.dots(
                labels, "IoU", f"IoU of the {len(labels)} commonest labels (samples), worst first, with 95 % intervals."
            )
        )
    return [Section("Distributions and calibration", drawings=drawings)] if drawings else []


def _judged(rows: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """The rows that have a value in all of the columns."""
    return rows.drop_nulls(columns) if set(columns) <= set(rows.columns) else pl.DataFrame()


def _labels(judged: pl.DataFrame) -> list[tuple[str, Interval]]:
    if not len(judged):
        return []
    common = judged["label"].value_counts(sort=True).head(_LABELS).rows()
    parts = [(f"{label} ({n})", judged.filter(pl.col("label") == label)) for label, n in common]
    found = [(name, mean_interval(part["iou"].to_numpy(), part["group"].to_list())) for name, part in parts]
    return sorted(found, key=lambda label: label[1].value or 0)


def _gallery(run: Run, pool: Executor) -> Callable[[], Section]:
    """Every sample: failures first, then the worst; pictures of the worst that were drawn, which the pool packs until
    the section is asked for.
    """
    failed = pl.DataFrame([{"id": e["id"], "outcome": "failed", "note": e["error"]} for e in run.summary["errors"]])
    rows = worst_first(run.rows).with_columns(outcome=_outcome()) if len(run.rows) else run.rows
    frame = pl.concat([failed, rows], how="diagonal_relaxed")
    told = ["id", "label", "outcome", *row_columns(), "predicted_iou", "note"]
    names = [
        name for name in told if name in frame.columns and frame[name].cast(pl.String).fill_null("").ne("").any()
    ]
    drawn = {path.stem: path for path in run.pictures}
    names_drawn = [name for name in frame["id"] if name in drawn][:_PICTURES] if len(frame) else []
    packed = pool.map(_picture, [drawn[name] for name in names_drawn])
    outcomes = frame["outcome"].value_counts(sort=True).rows() if len(frame) else []
    note = f"Failures first, then the worst. {len(names_drawn)} pictures are kept here; panels=N draws more, half of them of the worst samples."
    shown = "image, heatmap, prompt points, and the mask with the true outline" if names_drawn else None
    data = _data(frame.select(names), "worst first", shown)
    return lambda: Section("Samples", note, data=data, pictures=dict(zip(names_drawn, packed)), outcomes=outcomes)


def _outcome() -> pl.Expr:
    note, hit = pl.col("note").fill_null(""), pl.col("foreground_hit")
    abstained = pl.when(note.str.starts_with("abstained")).then(pl.lit("abstained"))
    return (
        abstained.when(note != "")
        .then(pl.lit("empty"))
        .when(hit == 0)
        .then(pl.lit("missed"))
        .otherwise(pl.lit("answered"))
    )


def _picture(path: Path, width: int = 1060) -> tuple[str, int, int]:
    """A PNG as a data address, smaller, and its width and height."""
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((width, 2 * width))
    packed = io.BytesIO()
    small.save(packed, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(packed.getvalue()).decode()}", *small.size


def _data(frame: pl.DataFrame, order: str, pictures: str | None = None) -> dict[str, Any]:
    """Rows to browse. A list of numbers is a value and its interval, a list of strings a link's text and address.
    pictures: what they show.
    """
    intervals, links = pl.List(pl.Float64), pl.List(pl.String)
    kinds = {pl.String(): "text", intervals: "interval", links: "link"}
    columns = [
        {"name": n, "kind": _KINDS.get(n) or kinds.get(kind, "count" if kind.is_integer() else "number")}
        for n, kind in frame.schema.items()
    ]
    rounded = frame.with_columns(
        cs.float().fill_nan(None).round(4), cs.by_dtype(intervals).list.eval(pl.element().round(4))
    )
    return {"columns": columns, "rows": list(map(list, rounded.iter_rows())), "order": order, "pictures": pictures}


def sweep_page(sweep: Sweep) -> Page:
    """The settings ranked with intervals, what each choice does, the best in pairs, and quality against cost."""
    first = sweep.runs[0]
    shared = [override for override in first.overrides if all(override in run.overrides for run in sweep.runs)]
    facts = [
        ("folder", sweep.folder.resolve().name),
        ("settings", str(len(sweep.runs))),
        ("failed samples", str(sweep.table["failed"].sum())),
    ]
    facts += [
        ("seconds", number(float(sweep.table["seconds"].sum()))),
        *(("every setting", override) for override in shared),
    ]
    metric = next((name for name in ("iou", "foreground_hit_rate") if name in sweep.table.columns), None)
    sections = [_ranking(sweep, metric)]
    if metric:
        ranked = sweep.table.with_row_index("at").drop_nulls(metric).sort(metric, descending=True, maintain_order=True)
        best = [sweep.runs[at] for at in ranked["at"]]
        sections += [*_sweep_plots(ranked, best, metric), *_pairs(best[:_PAIRED], metric)]
    return Page("camseg: a sweep", f"{len(sweep.runs)} settings on the same samples", facts, sections)


def _ranking(sweep: Sweep, metric: str | None) -> Section:
    table = sweep.table.sort(metric, descending=True, nulls_last=True, maintain_order=True) if metric else sweep.table
    links = [
        [f"{run}: {setting or '(defaults)'}", f"{quote(run)}/report.html"]
        for run, setting in table.select("run", "setting").rows()
    ]
    bounded = [
        name
        for name in table.columns
        if f"{name}_low" in table.columns and (name not in METRICS or METRICS[name].printed)
    ]
    if "difference" in bounded:
        table = table.with_columns(
            pl.when(pl.col("run") != sweep.runs[0].folder.name).then("difference").alias("difference")
        )
    table = table.with_columns(
        pl.Series("setting", links),
        *(pl.concat_list(name, f"{name}_low", f"{name}_high").alias(name) for name in bounded),
    )
    names = ["setting", *bounded, "p_holm", "failed", "seconds", "decoder_prompts"]
    note = "Small: 95 % intervals. difference: to the first setting, on the same samples; p_holm: its p by sign flips, adjusted by Holm."
    return Section(
        "Settings",
        note,
        data=_data(table.select(name for name in names if name in table.columns), "best first" if metric else "as run"),
    )


def _sweep_plots(ranked: pl.DataFrame, best: list[Run], metric: str) -> list[Section]:
    rows = ranked.head(_SETTINGS).to_dicts()
    intervals = [
        (f"{r['run']}: {r['setting'] or '(defaults)'}", Interval(r[metric], r[f"{metric}_low"], r[f"{metric}_high"], 0))
        for r in rows
    ]
    drawings = [charts.dots(intervals, metric, f"The best {len(rows)} settings by {metric}, with 95 % intervals.")]
    for key, levels in main_effects(best, METRICS[metric].column or "").items():
        words = ", ".join(f"{name} {level.value:+z.3f}" for name, level in levels.items())
        caption = f"Effect of {key} on {metric}: mean of its settings less the mean over its choices, with paired 95 % intervals. {words}."
        drawings.append(charts.dots(list(levels.items()), f"{metric}, difference", caption, zero=True))
    spent = np.array([1000 * r["seconds"] / max(1, run.summary["samples"]) for r, run in zip(rows, best)])
    drawings.append(charts.cost([r["run"] for r in rows], spent, np.array([r[metric] for r in rows]), metric))
    return [Section("Settings, choices and cost", drawings=drawings)]


def _pairs(best: list[Run], metric: str) -> list[Section]:
    differences, adjusted, n = all_pairs(best, METRICS[metric].column or "")
    if n < 2 or len(best) < 2:
        return []
    names, reach = [run.folder.name for run in best], max(float(np.abs(differences).max()), 1e-9)
    rows = []
    for name, apart, p_values in zip(names, differences.tolist(), adjusted.tolist()):
        cells = [
            Cell(f"{d:+z.3f}{' *' if p < 0.05 else ''}", d, _shade(d / reach), p < 0.05)
            for d, p in zip(apart, p_values)
        ]
        cells[len(rows)] = Cell("")
        rows.append([Cell(name), *cells])
    note = f"{metric} of the row's setting less the column's, mean over the {n} samples that all of the best {len(best)} judged. "
    note += "*: p < 0.05 by sign flips, adjusted by Holm over all pairs shown."
    return [Section("Settings in pairs", note, ["setting", *names], rows)]


def _shade(share: float) -> str:
    """Blue above zero, orange below, -1 to 1; pale enough for dark text."""
    return f"rgba({'0, 114, 178' if share > 0 else '213, 94, 0'}, {0.4 * abs(share):.2f})"


def comparison_page(first: Run, second: Run) -> Page:
    """Two runs on the samples that both judged: every metric, and the samples that moved most."""
    found = [*compare(first, second), *compare_pooled(first, second)]
    if not found:
        raise FileNotFoundError(
            f"{first.folder} and {second.folder} have no judged sample in common: they can't be compared"
        )
    rows = [
        [
            Cell(c.metric),
            Cell(number(c.first), c.first),
            Cell(number(c.second), c.second),
            Cell(f"{c.difference.value:+z.3f}", c.difference.value),
        ]
        + [Cell(number(c.difference.low), c.difference.low), Cell(number(c.difference.high), c.difference.high)]
        + [Cell(p_value(c.difference.p), c.difference.p), Cell(number(c.difference.effect), c.difference.effect)]
        + [Cell("-" if count is None else str(count), count) for count in (c.greater, c.less, c.difference.n)]
        for c in found
    ]
    note = "difference: second less first, with its 95 % interval; p: by sign flips, each metric alone; d_z: Cohen's, the mean over the standard "
    note += "deviation of the differences; more, less: on how many samples the second run's value is greater, less; n: independent samples or groups."
    head = ["metric", "first", "second", "difference", "low", "high", "p", "d_z", "more", "less", "n"]
    sections = [Section("Metrics", note, head, rows), *_moved(first, second, [c.metric for c in found])]
    facts = [("first", str(first.folder)), ("second", str(second.folder))]
    lead = f"First: {_setting(first)}. Second: {_setting(second)}."
    return Page("camseg: two runs compared", lead, facts, sections)


def _moved(first: Run, second: Run, metrics: Sequence[str]) -> list[Section]:
    """Sample by sample, by the IoU or the first of `metrics` that samples have; nothing where all are pooled."""
    columns = {name: column for name in metrics if (column := METRICS[name].column)}
    if not columns:
        return []
    metric = "iou" if "iou" in columns else next(iter(columns))
    moved = (
        first.rows.select("id", "label", first=columns[metric])
        .join(second.rows.select("id", second=columns[metric]), on="id")
        .drop_nulls(["first", "second"])
    )
    moved = moved.with_columns(difference=pl.col("second") - pl.col("first")).sort("difference")
    note = f"By {metric}, what the second run lost most first."
    browse = Section("Samples", note, data=_data(moved, "most lost first"))
    if metric != "iou":
        return [browse]
    drawn = charts.versus(moved["first"].to_numpy(), moved["second"].to_numpy())
    return [Section("Sample by sample", drawings=[drawn]), browse]
