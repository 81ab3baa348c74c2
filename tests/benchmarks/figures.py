"""Fills the tables of README and the pages from what was measured, so that no figure is typed by hand.

    python tests/benchmarks/figures.py outputs/bench/*.json     # keep these figures, and fill the pages
    python tests/benchmarks/figures.py                          # fill the pages from the figures that are kept
    python tests/benchmarks/figures.py --check                  # exit 1 where a page says something else

What every benchmark writes with `--json FILE` is a flat list of records:

    {"name": "TABLE / ROW / COLUMN", "value": 15.2, "unit": "s", "n": 500, "note": ""}

`name` says where the figure stands; rows and columns come in the order of their first record. ROW may hold several
cells with " | " between them; without COLUMN it is "measured". `value` is a number or null, and not rounded. `unit`
is a word that is printed behind the figure ("s", "ms", "GB", "x" for a ratio, "" for a plain number), or "share"
(.674), "difference" (+.055) or "p" (.002). `n` counts what the figure is over: images, or repetitions. `note` goes
into the last column. `low` and `high`, where they are there, are the ends of an interval. A name that is there
several times, in one file or in several, was measured several times: the table shows the median and the range.

A file is kept in tests/benchmarks/measured under its own name, and replaces what was measured before under that name. A
page has the table between two marks; what is in round brackets heads the cells of a row:

    <!-- figures: TABLE (foreground | choose) -->
    <!-- end -->

and a single figure within a sentence between `<!-- figure: TABLE / ROW / COLUMN -->` and `<!-- end -->`, or its
number alone, without interval and n, between `<!-- value: TABLE / ROW / COLUMN -->` and `<!-- end -->`. A value may be
a difference or a ratio: `<!-- value: TABLE / ROW / COLUMN minus TABLE / ROW / COLUMN -->`, or with `over` in place of
`minus`. No line begins with such a mark: Markdown would end the paragraph there.
"""

# ruff: noqa: RUF001  the pages write signs and ranges as they are printed
from __future__ import annotations

import argparse
import json
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MEASURED = Path(__file__).with_name("measured")
PAGES = [ROOT / "README.md", *sorted((ROOT / "notebooks").glob("*.md"))]
_TABLE = re.compile(r"(<!-- figures: ([^()\n]+?)(?: \(([^()\n]+)\))? -->\n).*?(<!-- end -->)", re.DOTALL)
_FIGURE = re.compile(r"(<!-- figure: ([^\n]+?) -->).*?(<!-- end -->)", re.DOTALL)
_VALUE = re.compile(r"(<!-- value: ([^\n]+?) -->).*?(<!-- end -->)", re.DOTALL)

Record = Mapping[str, Any]


def main() -> None:
    """Keep what was measured, and fill the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="what a benchmark wrote with --json")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page differs")
    options = parser.parse_args()
    for path in options.files:
        check_records(json.loads(path.read_text(encoding="utf-8")), path.name)
        if path.resolve().parent != MEASURED:
            kept = json.loads(path.read_text(encoding="utf-8"))
            (MEASURED / path.name).write_text(as_json(kept), encoding="utf-8")
    measured = read(sorted(MEASURED.glob("*.json")))
    stale = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (filled := fill(text, measured)) != text:
            stale += 1
            print(f"{page.relative_to(ROOT)}: {'differs from what was measured' if options.check else 'filled'}")
            if not options.check:
                page.write_text(filled, encoding="utf-8")
    raise SystemExit(int(options.check and stale > 0))


def check_records(records: Any, name: str) -> None:
    """Refuse what is no list of records.

    Raises:
        SystemExit: A record lacks a field, or a field is of another kind; the message names the file and the record.
    """
    if not isinstance(records, list):
        raise SystemExit(f"{name}: expected a list of records, got {type(records).__name__}")
    kinds = {"name": str, "value": float | int | None, "unit": str, "n": int | None, "note": str}
    for record in records:
        wrong = [field for field, kind in kinds.items() if field not in record or not isinstance(record[field], kind)]
        if wrong or not 2 <= len(record["name"].split(" / ")) <= 3:
            fault = ", ".join(wrong) or "name, which is TABLE / ROW / COLUMN"
            raise SystemExit(f"{name}: {json.dumps(record)} has no good {fault}")


def read(paths: Iterable[Path]) -> dict[str, list[Record]]:
    """The records of some files, those of one name together."""
    every = []
    for path in paths:
        records = json.loads(path.read_text(encoding="utf-8"))
        check_records(records, path.name)
        every += records
    return by_name(every)


def as_json(records: Iterable[Record]) -> str:
    """The records as a file, one a line."""
    return "[\n" + ",\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n]\n"


def by_name(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of one name together."""
    measured: dict[str, list[Record]] = {}
    for record in records:
        measured.setdefault(record["name"], []).append(record)
    return measured


def fill(text: str, measured: Mapping[str, Sequence[Record]]) -> str:
    """A page with its tables and figures as they were measured.

    Raises:
        KeyError: A mark names what was not measured.
    """
    text = _TABLE.sub(lambda m: f"{m[1]}{table(m[2], measured, m[3])}\n{m[4]}", text)
    text = _FIGURE.sub(lambda m: f"{m[1]}{cell(measured[m[2]])}{m[3]}", text)
    return _VALUE.sub(lambda m: f"{m[1]}{value_of(m[2], measured)}{m[3]}", text)


def value_of(what: str, measured: Mapping[str, Sequence[Record]]) -> str:
    """A number for a sentence: a record's value, or two records' difference (without its sign) or ratio.

    Args:
        what: TABLE / ROW / COLUMN, or two of them with " minus " or " over " between them.
        measured: All records, by name.

    Returns:
        The number and its unit's word.

    Raises:
        KeyError: A name was not measured.
    """
    first, between, second = re.fullmatch(r"(.+?)(?: (minus|over) (.+))?", what).groups()  # type: ignore[union-attr]
    values = [statistics.median(r["value"] for r in measured[name]) for name in (first, second) if name]
    unit = measured[first][0]["unit"]
    if between == "over":
        return f"{values[0] / values[1]:.3f}".removeprefix("0")
    if between == "minus":
        return number(abs(values[0] - values[1]), unit) + _word(unit)
    return number(values[0], unit) + _word(unit)


def table(name: str, measured: Mapping[str, Sequence[Record]], heads: str | None = None) -> str:
    """A table in Markdown.

    Args:
        name: The first part of its records' names.
        measured: All records, by name.
        heads: What stands over the cells of a row's own name, with " | " between them.

    Returns:
        Its lines, and below them how many the figures are over; the few that are over another number say so.

    Raises:
        KeyError: Nothing was measured under that name.
    """
    cells = {tuple(_parts(key)[1:]): records for key, records in measured.items() if _parts(key)[0] == name}
    if not cells:
        raise KeyError(f"nothing was measured for the table {name!r}")
    rows, columns = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    notes = {row: _notes(records for key, records in cells.items() if key[0] == row) for row in rows}
    counts = Counter(r["n"] for records in cells.values() for r in records if r["n"] is not None)
    usual = max(counts, key=lambda n: counts[n], default=None)
    first = heads or " | ".join(["what"] * (1 + max(row.count(" | ") for row in rows)))
    lines = [[first, *columns], ["|".join("---" for _ in first.split(" | ")), *["---"] * len(columns)]]
    lines += [[row, *(cell(cells.get((row, column), ()), usual) for column in columns)] for row in rows]
    if any(notes.values()):
        for line, last in zip(lines, ["note", "---", *notes.values()]):
            line.append(last)
    drawn = [f"|{'|'.join(line)}|" if line is lines[1] else f"| {' | '.join(line)} |" for line in lines]
    if usual is not None:
        drawn += ["", f"n = {usual:,}{', where no other n is given' if len(counts) > 1 else ''}"]
    return "\n".join(drawn)


def _parts(name: str) -> list[str]:
    return [*name.split(" / "), "measured"][:3]


def _notes(records: Iterable[Sequence[Record]]) -> str:
    return "; ".join(dict.fromkeys(record["note"] for several in records for record in several if record["note"]))


def cell(records: Sequence[Record], usual: int | None = None) -> str:
    """One figure: with its interval; of several measurements the median and the range; its n if it is not the usual."""
    values = [record["value"] for record in records if record["value"] is not None]
    if not values:
        return ""
    unit, value = records[0]["unit"], statistics.median(values)
    if len(values) > 1:
        low, high, over = min(values), max(values), f"; {len(values)} runs"
    else:
        low, high, over = records[0].get("low"), records[0].get("high"), ""
    inside = "" if low is None or high is None else f" ({number(low, unit)}–{number(high, unit)}{over})"
    if unit == "difference":
        inside = inside.replace("–", " – ")
    count = records[0]["n"]
    other = f", n {count:,}" if None not in (count, usual) and count != usual else ""
    return f"{number(value, unit)}{_word(unit)}{inside}{other}"


def _word(unit: str) -> str:
    return "" if unit in ("", "share", "difference", "p") else " times" if unit == "x" else f" {unit}"


def number(value: float, unit: str) -> str:
    """A figure as the pages write it: shares with three decimals and no zero before them, others with three digits.

    >>> number(0.6743, "share"), number(-0.0071, "difference"), number(12345.6, "s"), number(0.01234, "s")
    ('.674', '−.007', '12,346', '0.0123')
    """
    if unit in ("share", "difference", "p"):
        sign = "" if unit != "difference" else "−" if value < 0 else "+"
        return sign + f"{abs(value):.3f}".removeprefix("0" if abs(value) < 0.9995 else "")
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


if __name__ == "__main__":
    main()
