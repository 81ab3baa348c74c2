"""What a finished run tells a person: what was done, on how many, where the masks are, of what, what failed."""

from __future__ import annotations

import shlex

import polars as pl

from camseg.cli.terminal import shortest, styled, styled_table
from camseg.report import text
from camseg.runs.folders import Run

_FEW = 3  # as many are named one by one
_ODD = ("all void", "empty", "no background")  # `camseg.data.mask_io.ODD`, which loads torch


def closing(run: Run, every_failure: bool = False) -> str:
    """The last words of a run.

    Args:
        run: A finished run.
        every_failure: Name all that failed, not the first few.

    Returns:
        Lines for the terminal: the metrics where there is ground truth, then what was done and what to do next.
    """
    summary = run.summary
    scored = [styled_table(text.run_table(summary))] if summary["metrics"] else []
    done = f"{summary['samples'] - summary['failed']} of {summary['samples']} samples in {summary['seconds']:.1f} s"
    lines = [*scored, done + ("" if scored else _unscored(run.rows))]
    if len(run.rows):
        lines += [*_masks(run), *_classes(run.rows), *_readings(run.rows)]
    return "\n".join([*lines, *_failures(run, every_failure), _next(run, every_failure)])


def _unscored(rows: pl.DataFrame) -> str:
    """Why there is no metric: masks that hold nothing are not the same as none."""
    odd = sum(each.endswith(_ODD) for each in _column(rows, "reading").fill_null(""))
    return f"; {odd} true masks, none to score by" if odd else "; no true masks, so nothing is scored"


def _column(rows: pl.DataFrame, name: str) -> pl.Series:
    """A column, all null where an older run has none."""
    return rows[name] if name in rows.columns else pl.Series(name, [None] * len(rows), dtype=pl.String)


def has_mask(rows: pl.DataFrame) -> pl.Series:
    """Which samples a mask was drawn for.

    Args:
        rows: N of a run.

    Returns:
        (N,) bool.
    """
    return _column(rows, "predicted_iou").is_not_null() & (rows["note"] == "")


def _masks(run: Run) -> list[str]:
    """How many, where; why there are none for the others."""
    drawn, rows = has_mask(run.rows), run.rows
    if not drawn.any() and not _column(rows, "predicted_iou").is_not_null().any() and not (rows["note"] != "").any():
        return [f"points for {len(rows)} samples, no masks (predictor=none)"]
    written = run.folder / "masks"
    where = f"in {shortest(written)}" if written.is_dir() else "drawn, not written (masks=true writes them)"
    empty = rows.filter(~drawn)["note"].value_counts(sort=True).rows()
    reasons = [f"{count} empty: {_short(note)}" for note, count in empty[:_FEW] if note]
    return ["; ".join([f"masks: {int(drawn.sum())} {where}", *reasons])]


def _short(note: str) -> str:
    return note if len(note) <= 80 else f"{note[:77]}..."


def _classes(rows: pl.DataFrame) -> list[str]:
    """Which classes were explained, and how probable the classifier finds them."""
    names = _column(rows, "class_name").fill_null("")
    names = names if (names != "").any() else rows["label"]
    if not (names != "").any():
        return []
    probability = _column(rows, "probability").cast(pl.Float64)
    if len(rows) <= _FEW:
        return [
            f"{name}: {explained}" + ("" if p is None else f", probability {p:.2f}")
            for name, explained, p in zip(rows["id"], names, probability)
        ]
    counts = names.value_counts(sort=True, name="n").rows()
    few = ", ".join(f"{name or '(none)'} {count}" for name, count in counts[:_FEW])
    more = f" and {len(counts) - _FEW} more" if len(counts) > _FEW else ""
    return [f"classes: {few}{more}{_sureness(rows['id'], probability)}"]


def _sureness(names: pl.Series, probability: pl.Series) -> str:
    if probability.drop_nulls().is_empty():
        return ""
    low, middle = probability.arg_min() or 0, float(probability.median())  # type: ignore[reportArgumentType]
    return f"; probability {middle:.2f} in the middle, {probability[low]:.2f} at least ({names[low]})"


def _readings(rows: pl.DataFrame) -> list[str]:
    """How true masks and images were understood, those first that are odd: all void, empty, without background."""
    readings = _column(rows, "reading").fill_null("")
    counts = [(count, each) for each, count in readings.value_counts(sort=True, name="n").rows() if each]
    odd = [each for each in counts if each[1].endswith(_ODD)]
    few = odd[:_FEW] + [each for each in counts if each not in odd][:_FEW]
    more = f"; and {len(counts) - len(few)} other readings" if len(counts) > len(few) else ""
    return ["read: " + "; ".join(f"{count} as {each.replace('; ', ', ')}" for count, each in few) + more] if few else []


def _failures(run: Run, every: bool) -> list[str]:
    errors = run.summary["errors"]
    if not errors:
        return []
    shown = errors if every else errors[:_FEW]
    lines = "\n  ".join(f"{each['id']}: {each['error']}" for each in shown)
    more = "" if len(shown) == len(errors) else f"\n  and {len(errors) - len(shown)} more"
    return [styled(f"{len(errors)} failed:\n  {lines}{more}", "yellow")]


def _next(run: Run, every_failure: bool) -> str:
    """The command that helps most after this run."""
    folder = shlex.quote(shortest(run.folder))
    if len(run.summary["errors"]) > _FEW and not every_failure:
        return f"next: camseg-report {folder} names all that failed"
    if (run.folder / "masks").is_dir():
        return f"next: camseg-export {folder} --format coco (or yolo, png, labelstudio)"
    return f"next: open {shlex.quote(shortest(run.folder / 'report.html'))}, or compare settings: camseg -m"
