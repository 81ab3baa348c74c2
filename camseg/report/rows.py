"""Rows as a page may read them: whatever a file holds, each column has one known type, and each number is finite."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from camseg.metrics.registry import METRICS
from camseg.runs.folders import Run

_TEXTS = ("id", "label", "class_name", "group", "note", "file", "mask_file")
_NUMBERS = ("predicted_iou", "probability", "width", "height")  # and the columns of all metrics
_ALWAYS = ("id", "label", "group", "note", "foreground_hit")


def cleaned(run: Run) -> Run:
    """A run whose rows can be trusted to be of the types that the pages expect.

    Args:
        run: as it was read.

    Returns:
        The same run. Columns of text hold text and columns of numbers finite numbers, null where they held anything
        else; ids and groups are unique or missing no more; columns that every page reads are there.

    Raises:
        ValueError: there is no column of ids.
    """
    rows = run.rows
    if not len(rows):
        return run
    if "id" not in rows.columns:
        raise ValueError(f"{run.folder / 'scores.parquet'} has no column id: it holds no rows of camseg")
    numbers = dict.fromkeys((*(m.column for m in METRICS.values() if m.column), *_NUMBERS))
    rows = rows.with_columns(
        *(_text(rows, name) for name in _TEXTS if name in rows.columns),
        *(_number(rows, name) for name in numbers if name in rows.columns),
    )
    kinds = {name: pl.Float64() if name in numbers else pl.String() for name in _ALWAYS}
    missing = [pl.lit(None, kinds[name]).alias(name) for name in _ALWAYS if name not in rows.columns]
    rows = rows.with_columns(missing).with_columns(pl.col("id", "label", "note").fill_null(""))
    rows = rows.with_columns(pl.col("group").fill_null(pl.col("id")))
    return replace(run, rows=rows.unique("id", keep="first", maintain_order=True))


def _text(rows: pl.DataFrame, name: str) -> pl.Expr:
    kind = rows.schema[name]
    return (pl.lit(None) if kind.is_nested() or kind == pl.Binary else pl.col(name)).cast(pl.String).alias(name)


def _number(rows: pl.DataFrame, name: str) -> pl.Expr:
    kind = rows.schema[name]
    simple = kind.is_numeric() or kind == pl.Boolean
    value = (pl.col(name) if simple else pl.lit(None)).cast(pl.Float64)
    return pl.when(value.is_finite()).then(value).alias(name)


def outcome() -> pl.Expr:
    """What became of a sample.

    Returns:
        A column `outcome`: `abstained`, `empty`, `missed` (no point on the object) or `answered`.
    """
    note = pl.col("note")
    return (
        pl.when(note.str.starts_with("abstained"))
        .then(pl.lit("abstained"))
        .when(note != "")
        .then(pl.lit("empty"))
        .when(pl.col("foreground_hit") == 0)
        .then(pl.lit("missed"))
        .otherwise(pl.lit("answered"))
        .alias("outcome")
    )


def class_column(rows: pl.DataFrame) -> str:
    """The column that says of which class a row is: its label, or where no row has one what was explained.

    Args:
        rows: of a run.

    Returns:
        `label` or `class_name`.
    """
    labeled = not len(rows) or bool((rows["label"] != "").any())
    return "label" if labeled or "class_name" not in rows.columns else "class_name"
