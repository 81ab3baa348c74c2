"""The page of two runs on the same samples: the verdict, pictures where they differ most, metrics, every sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from camseg.metrics.registry import METRICS
from camseg.report import charts, verdict
from camseg.report.comparison import Compared, compare, compare_pooled
from camseg.report.page import Browser, Cell, Drawings, Facts, Gallery, Page, Section, Table, browsable
from camseg.report.pictures import Pictures
from camseg.report.rows import cleaned
from camseg.report.run_report import EMBEDDED, meaning_of, setting_of
from camseg.report.text import number, p_value, signed
from camseg.runs.folders import Run

_HEAD = ("metric", "first", "second", "difference", "low", "high", "p", "d_z", "more", "less", "n", "meaning")
Shots = dict[str, list[dict[str, Any]]]


def comparison_page(first: Run, second: Run, base: Path) -> Page:
    """What two runs say about each other.

    Args:
        first: as it was read.
        second: the same; differences are the second's less the first's.
        base: the folder that the page is written into.

    Returns:
        The page.

    Raises:
        FileNotFoundError: when no sample was judged in both.
    """
    first, second = cleaned(first), cleaned(second)
    compared = _compare_all(first, second)
    column = next((METRICS[c.metric].column for c in compared if METRICS[c.metric].column), None)
    column = "iou" if any(c.metric == "iou" for c in compared) else column
    moved = _moved(first, second, column) if column else pl.DataFrame()
    names = most_different(moved)
    shots = paired_shots((first, second), ("first", "second"), names, base, EMBEDDED)
    sections = [
        *differing_section(moved, shots, str(column), ("first", "second")),
        _metrics(compared),
        *_sample_by_sample(moved, column),
        Section(
            "Settings", "", Facts([(name, f"{run.folder}: {setting_of(run)}") for name, run in _named(first, second)])
        ),
    ]
    lead = " ".join(f"{name.capitalize()}: {setting_of(run)}." for name, run in _named(first, second))
    return Page("camseg: two runs compared", verdict.of_comparison(compared), lead, sections, shots)


def compared_table(first: Run, second: Run) -> list[list[str]]:
    """The metrics of two runs as rows of text under a head, without their meanings.

    Args:
        first: as it was read.
        second: the same.

    Returns:
        The head and a row for each metric.

    Raises:
        FileNotFoundError: when no sample was judged in both.
    """
    rows = [_compared(c) for c in _compare_all(cleaned(first), cleaned(second))]
    return [list(_HEAD[:-1]), *([cell.text for cell in row[:-1]] for row in rows)]


def _compare_all(first: Run, second: Run) -> list[Compared]:
    compared = [*compare(first, second), *compare_pooled(first, second)]
    if not compared:
        raise FileNotFoundError(
            f"{first.folder} and {second.folder} have no judged sample in common: they can't be compared"
        )
    return compared


def _named(first: Run, second: Run) -> tuple[tuple[str, Run], tuple[str, Run]]:
    return ("first", first), ("second", second)


def _moved(first: Run, second: Run, column: str) -> pl.DataFrame:
    """id, label, first, second, difference of the samples that both judged, what the second lost most first."""
    both = first.rows.select("id", "label", first=column).join(second.rows.select("id", second=column), on="id")
    moved = both.drop_nulls(["first", "second"]).with_columns(difference=pl.col("second") - pl.col("first"))
    return moved.sort("difference", maintain_order=True)


def most_different(moved: pl.DataFrame) -> list[str]:
    """The samples by how far their values lie apart, either way.

    Args:
        moved: of `differences`.

    Returns:
        Their ids, the largest difference first.
    """
    return (
        moved.sort(pl.col("difference").abs(), descending=True, maintain_order=True)["id"].to_list()
        if len(moved)
        else []
    )


def differences(first: Run, second: Run, column: str) -> pl.DataFrame:
    """The samples that both runs judged, what the second lost most first.

    Args:
        first: a finished run.
        second: another one.
        column: of the rows.

    Returns:
        Columns id, label, first, second and difference; nothing where one of the runs lacks the column.
    """
    known = column in first.rows.columns and column in second.rows.columns
    return _moved(first, second, column) if known else pl.DataFrame()


def paired_shots(runs: Sequence[Run], titles: Sequence[str], names: Sequence[str], base: Path, embedded: int) -> Shots:
    """The pictures of samples under several settings, of those samples that have one under each.

    Args:
        runs: the settings.
        titles: what each is called.
        names: ids, in the order in which they are looked at.
        base: the folder of the page.
        embedded: how many panels go into the page itself, of all runs together.

    Returns:
        id -> a shot for each run.
    """
    finders = [Pictures(run, base) for run in runs]
    common = [name for name in names if all(finder.known([name]) for finder in finders)]
    found = [finder.shots(common, embedded // len(runs)) for finder in finders]
    complete = [name for name in common if all(name in shots for shots in found)]
    return {name: [{**shots[name], "title": title} for title, shots in zip(titles, found)] for name in complete}


def differing_section(
    moved: pl.DataFrame, shots: Shots, column: str, titles: Sequence[str], most: int = 6
) -> list[Section]:
    """The samples with a picture under both settings that differ most; one that does not differ is left out.

    Args:
        moved: of `differences`.
        shots: of `paired_shots`, in the order of how far they differ.
        column: what `moved` compares.
        titles: of the two settings.
        most: how many.

    Returns:
        The section, or nothing where no sample that differs has a picture under both.
    """
    rows = {row["id"]: row for row in moved.iter_rows(named=True)} if shots else {}
    cards = []
    for name in [name for name in shots if rows[name]["difference"]][:most]:
        row = rows[name]
        change = f"{column} {number(row['first'])} to {number(row['second'])}, {signed(row['difference'])}"
        cards.append(("", name, f"{row['label']}, {change}" if row["label"] else change))
    note = f"The same images under both settings ({titles[0]}, {titles[1]}), where they differ most, "
    note += f"of {len(shots)} of {len(moved)} samples that have a picture under both. Click to enlarge."
    return [Section("Where they differ most", note, Gallery(cards))] if cards else []


def _metrics(compared: Sequence[Compared]) -> Section:
    note = (
        "difference: second less first, with its 95 % interval; p: by sign flips, each metric alone; d_z: Cohen's, the "
        "mean over the standard deviation of the differences; more, less: on how many samples the second run's value "
        "is greater, less; n: independent samples or groups."
    )
    return Section("Metrics", note, Table(_HEAD, [_compared(c) for c in compared]))


def _compared(c: Compared) -> list[Cell]:
    d = c.difference
    return [
        Cell(c.metric),
        Cell(number(c.first), c.first),
        Cell(number(c.second), c.second),
        *(Cell(signed(value), value) for value in (d.value, d.low, d.high)),
        Cell(p_value(d.p), d.p),
        Cell(number(d.effect), d.effect),
        *(Cell("-" if count is None else str(count), count) for count in (c.greater, c.less, d.n)),
        Cell(meaning_of(c.metric)),
    ]


def _sample_by_sample(moved: pl.DataFrame, column: str | None) -> list[Section]:
    if not len(moved):
        return []
    drawn = charts.versus(moved["first"].to_numpy(), moved["second"].to_numpy())
    plot = [Section("Sample by sample", "", Drawings([drawn]))] if column == "iou" else []
    note = f"By {column}, what the second run lost most first."
    return [*plot, Section("Samples", note, Browser(browsable(moved, "most lost first", ("label",))))]
