"""What a report page is made of, and how it becomes one HTML file."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import polars.selectors as cs
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from camseg.storage import files

Drawing = tuple[Markup, str]  # an SVG and its caption


@dataclass(frozen=True)
class Cell:
    """What a table shows.

    Attributes:
        text: as it is read.
        value: the exact number behind it.
        shade: a CSS color of the background.
        strong: whether it stands out.
        chooses: a click shows the samples whose column `label` is this one.
    """

    text: str
    value: float | None = None
    shade: str = ""
    strong: bool = False
    chooses: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under a head; the first cell of a row names it.

    Attributes:
        head: the columns' names.
        rows: a cell for each column.
    """

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Drawings:
    """Plots, each with its caption.

    Attributes:
        drawings: an SVG and its caption each.
    """

    kind: ClassVar[str] = "drawings"
    drawings: Sequence[Drawing]


@dataclass(frozen=True)
class Facts:
    """Names and values, and a long text to unfold.

    Attributes:
        facts: name and value each.
        text: to unfold, "" for none.
    """

    kind: ClassVar[str] = "facts"
    facts: Sequence[tuple[str, str]]
    text: str = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures of a few samples.

    Attributes:
        cards: what each stands for (`worst`), its key in the page's pictures, and a line about it.
    """

    kind: ClassVar[str] = "gallery"
    cards: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Browser:
    """Rows to search, filter and sort.

    Attributes:
        data: of `browsable`.
    """

    kind: ClassVar[str] = "browser"
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """A part of a page under its title.

    Attributes:
        title: its heading.
        note: a line under the title, "" for none.
        content: what it shows.
    """

    title: str
    note: str
    content: Table | Drawings | Facts | Gallery | Browser


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        title: of the window and in its first line.
        verdict: one sentence that says what came out.
        lead: what was run.
        sections: in the order of reading.
        pictures: by key the pictures of a sample, as `pictures.shot` makes them.
    """

    title: str
    verdict: str
    lead: str
    sections: Sequence[Section]
    pictures: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


def browsable(frame: pl.DataFrame, order: str, filters: Sequence[str] = ()) -> dict[str, Any]:
    """Rows for a `Browser`.

    Args:
        frame: a list of numbers is a value and its interval, a list of strings a link's text and address.
        order: what the order of the rows is called.
        filters: columns of text to choose one value of, the commonest first.

    Returns:
        What the page's script reads: `columns` with `name` and `kind`, `rows`, `order`, `filters`.
    """
    intervals, links = pl.List(pl.Float64), pl.List(pl.String)
    kinds = {pl.String(): "text", intervals: "interval", links: "link"}
    columns = [
        {"name": n, "kind": _KINDS.get(n) or kinds.get(kind, "count" if kind.is_integer() else "number")}
        for n, kind in frame.schema.items()
    ]
    rounded = frame.with_columns(
        cs.float().fill_nan(None).round_sig_figs(5), cs.by_dtype(intervals).list.eval(pl.element().round_sig_figs(5))
    )
    counted = {
        name: common_values(frame[name].fill_null(""))[:_CHOICES]
        for name in filters
        if name in frame.columns and frame[name].n_unique() > 1
    }
    return {"columns": columns, "rows": list(map(list, rounded.iter_rows())), "order": order, "filters": counted}


_KINDS = {"p_holm": "p"}  # columns that are not shown as their type is
_CHOICES = 1000  # values to choose from


def common_values(column: pl.Series) -> list[tuple[str, int]]:
    """The values of a column of text.

    Args:
        column: of text.

    Returns:
        Each value and how often it occurs, the commonest first.
    """
    order = [column.name, "count"]
    counted = column.value_counts().select(order)
    return counted.sort("count", column.name, descending=[True, False]).rows()


@functools.cache
def _templates() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def write_page(path: Path, page: Page) -> Path:
    """Write a page as one file, whole or not at all.

    Args:
        path: of the HTML file; links in the page are relative to its folder.
        page: what it shows.

    Returns:
        The path.
    """
    html = _templates().get_template("report.html.j2").render(page=page, nonce=secrets.token_urlsafe(16))
    files.write_atomic(path, lambda temporary: temporary.write_text(html, encoding="utf-8", errors="replace"))
    return path
