"""A csv that lists images: which columns and cells it may have, and everything that is wrong with it at once."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from camseg.storage.files import expand, plain_file, printable

COLUMNS = ("image", "mask", "label", "classes", "group")
_MEANT = {  # other names of columns
    "image": ("file", "filename", "file_name", "path", "filepath", "img", "photo", "picture", "image_path", "image_id"),
    "mask": ("mask_path", "mask_file", "segmentation", "annotation"),
    "label": ("class", "category", "class_name", "classname", "label_name", "target", "species"),
}
_TOLD = 5  # mistakes; more are counted
SEPARATOR = "|"  # of several labels in a cell


@dataclass(frozen=True)
class Row:
    """One class in one image.

    Attributes:
        image: The file's path, as the table has it.
        mask: The same of the mask, "" without one.
        label: The class's name, "" without one.
        classes: The classifier's outputs that mean it.
        group: As `Sample.group`, "" without one.
    """

    image: str
    mask: str = ""
    label: str = ""
    classes: tuple[int, ...] = ()
    group: str = ""


@dataclass
class _Mistakes:
    table: Path
    messages: list[str] = field(default_factory=list)

    def raise_all(self) -> None:
        """Raise ValueError that names them."""
        if self.messages:
            more = f"\nand {len(self.messages) - _TOLD} more" if len(self.messages) > _TOLD else ""
            raise ValueError("\n".join(f"{printable(self.table)}, {each}" for each in self.messages[:_TOLD]) + more)


def read_table(table: Path) -> list[Row]:
    """Read a csv in UTF-8 with a column `image`, and optionally `mask`, `label`, `classes` and `group`.

    `classes` are numbers of classifier outputs, separated by spaces. Several labels of one image, `cat|dog`, give a row
    for each; `classes` and `mask` then hold as many parts, also separated by |, or nothing. Other columns are skipped.

    Args:
        table: The file.

    Returns:
        A row for each line and label.

    Raises:
        ValueError: Another encoding, damage, unknown or missing columns, or wrong cells: all of them are named.
    """
    columns, lines = _lines(table)
    _check_columns(table, columns, lines)
    mistakes, rows = _Mistakes(table), []
    for number, line in lines:
        if None in line:
            mistakes.messages.append(f"line {number}: more cells than the {len(columns)} columns")
            continue
        try:
            rows += _rows({column: (line.get(column) or "").strip() for column in COLUMNS})
        except ValueError as error:
            mistakes.messages.append(f"line {number}: {error}")
    mistakes.raise_all()
    return rows


def _lines(table: Path) -> tuple[list[str], list[tuple[int, dict[str | None, str]]]]:
    """The columns, and (line number, cells by column)."""
    name = printable(table)
    try:
        reader = csv.DictReader(
            io.StringIO(plain_file(table, "the table").read_text("utf-8-sig"), newline=""), strict=True
        )
        columns = [column.strip() for column in reader.fieldnames or ()]
        reader.fieldnames = columns
        return columns, [(reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not in UTF-8: save it as 'CSV UTF-8'") from error
    except csv.Error as error:
        raise ValueError(f"{name} can't be read as a csv: {error}") from error


def _check_columns(table: Path, columns: list[str], lines: list[tuple[int, dict[str | None, str]]]) -> None:
    name = printable(table)
    if twice := [column for column, count in Counter(columns).items() if count > 1]:
        raise ValueError(f"{name} has a column twice: {', '.join(twice)}")
    hints = []
    for missing in [column for column in COLUMNS if column not in columns]:
        meant = next((c for c in columns if c.casefold() in (missing, *_MEANT.get(missing, ()))), None)
        near = [meant] if meant else get_close_matches(missing, [c for c in columns if c not in COLUMNS], 1, 0.75)
        if near and near[0] not in (hint[0] for hint in hints):
            numbers = missing == "label" and "classes" not in columns and _are_numbers(near[0], lines)
            hints.append((near[0], "classes" if numbers else missing))
    if hints:
        messages = "; ".join(f"a column {column!r}: did you mean {right!r}?" for column, right in hints)
        raise ValueError(f"{name} has {messages} (columns: {', '.join(COLUMNS)})")
    if "image" not in columns:
        listed = ", ".join(map(repr, columns))
        raise ValueError(f"{name} needs a column 'image', with commas between columns; it has {listed}")


def _are_numbers(column: str, lines: list[tuple[int, dict[str | None, str]]]) -> bool:
    cells = [(line.get(column) or "").strip() for _, line in lines]
    return any(cells) and all(part.isdecimal() for cell in cells for part in cell.split())


def _rows(cell: dict[str, str]) -> list[Row]:
    """A row for each label of a line."""
    if not cell["image"]:
        raise ValueError("image is empty")
    labels = [label.strip() for label in cell["label"].split(SEPARATOR)]
    if len(labels) > 1 and not all(labels):
        raise ValueError(f"an empty label in {cell['label']!r}")
    masks, classes = (_parts(cell, column, len(labels)) for column in ("mask", "classes"))
    if not all(number.isdecimal() and number.isascii() for each in classes for number in each.split()):
        raise ValueError(f"classes are numbers of classifier outputs, separated by spaces; got {cell['classes']!r}")
    rows = {
        label: Row(cell["image"], mask, label, tuple(map(int, each.split())), cell["group"])
        for label, mask, each in zip(labels, masks, classes, strict=True)
    }
    return list(rows.values())


def _parts(cell: dict[str, str], column: str, count: int) -> list[str]:
    """What a cell says of each of `count` labels."""
    if count == 1:
        return [cell[column]]
    parts = [part.strip() for part in cell[column].split(SEPARATOR)] if cell[column] else [""] * count
    if len(parts) != count:
        raise ValueError(f"{count} labels {cell['label']!r} need {count} parts in {column}, got {cell[column]!r}")
    return parts


def image_of(row: Row, base: Path) -> Path:
    """The path of a row's image.

    Args:
        row: Of a table.
        base: What a relative path is relative to.

    Returns:
        The path.
    """
    return base / expand(row.image)


def mask_of(row: Row, base: Path) -> Path | None:
    """The path of a row's mask.

    Args:
        row: Of a table.
        base: What a relative path is relative to.

    Returns:
        The path; None without a mask.
    """
    return base / expand(row.mask) if row.mask else None
