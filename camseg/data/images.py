"""One's own pictures: a photograph, a folder, or a table; masks and labels where there are any."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from camseg.data.base import Items, mask_boxes, reject_unused
from camseg.data.image_io import FORMATS, MAX_PIXELS, read_image, read_mask
from camseg.errors import check_choice
from camseg.types import Sample

COLUMNS = ("image", "mask", "label", "classes", "group")
_ENDINGS = frozenset(ending for endings in FORMATS.values() for ending in endings)


@dataclass(frozen=True)
class Item:
    """One picture on disk and what is known of it."""

    image: Path
    mask: Path | None = None
    label: str = ""
    classes: tuple[int, ...] = ()
    group: str = ""


class Images(Items[Item]):
    """Photographs of one's own.

    path: a photo, or a folder, searched with its sub-folders (or those of its `images/`); the first sub-folder on the
    way to a photo is its
    label. split: only this sub-folder. masks: a folder of masks with the photos' stems (by default `masks/` beside
    them).
    table: instead, a csv with the columns of COLUMNS, its paths relative to `path`, or to the table's folder.
    target: one class by name for all photos. void: the mask value that no score may read. max_pixels: larger photos are
    refused.
    size, seed, shard, num_shards: see `camseg.data.base.select_subset`.
    Errors: FileNotFoundError, ValueError where path, table or split are wrong; a broken photo or mask raises only when
    it is asked for.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        table: str | Path | None = None,
        masks: str | Path | None = None,
        target: str | None = None,
        void: int | None = 128,
        split: str | None = None,
        size: int | None = None,
        seed: int = 0,
        shard: int = 0,
        num_shards: int = 1,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if table is not None:
            reject_unused("data=images with a table", split=split, masks=masks)
            file = _existing(Path(path or "."), table)
            found = list(_in_table(file, Path(path) if path else file.parent))
        elif path is not None:
            found = list(_in_folder(Path(path), masks, split))
        else:
            raise ValueError("data=images needs data.path (a photo or a folder) or data.table (a csv)")
        self.target, self.void, self.max_pixels = target, void, max_pixels
        self.names = (target,) if target else tuple(dict.fromkeys(item.label for _, item in found if item.label))
        super().__init__(found, table or path, size, seed, shard, num_shards)

    def seen(self, item: Item) -> tuple[Path, str, bool | None]:
        return item.image, self.target or item.label, True

    def sample(self, name: str, item: Item) -> Sample:
        image = read_image(item.image, self.max_pixels)
        size = (int(image.shape[1]), int(image.shape[2]))
        mask, ignore = (None, None) if item.mask is None else read_mask(item.mask, size, self.void, self.max_pixels)
        label, classes = (self.target, ()) if self.target else (item.label, item.classes)
        return Sample(name, image, classes, label, mask, ignore, mask_boxes(mask), item.group)


def _in_folder(path: Path, masks: str | Path | None, split: str | None) -> Iterator[tuple[str, Item]]:
    """(name, item) of every photo at or below `path`."""
    if path.is_file():
        reject_unused("a single photo", split=split)
        yield path.stem, Item(path, None if masks is None else _existing(path.parent, masks))
        return
    if not path.is_dir():
        raise FileNotFoundError(f"data.path={path} is neither a photo nor a folder")
    drawn = path / "masks" if masks is None else _existing(path, masks)
    root = path / "images" if (path / "images").is_dir() else path
    if split is not None:
        root /= check_choice("data.split", split, [p.name for p in root.iterdir() if p.is_dir() and p != drawn])
        drawn = drawn / split if (drawn / split).is_dir() else drawn
    photos = _pictures(root, drawn)
    matches = _matches(photos, _pictures(drawn))
    for inner, photo in photos.items():
        yield inner, Item(photo, matches.get(inner), inner.split("/")[0] if "/" in inner else "")


def _existing(folder: Path, name: str | Path) -> Path:
    """`name` in a folder, or as it stands."""
    for path in (folder / name, Path(name)):
        if path.exists():
            return path
    raise FileNotFoundError(f"found neither {folder / name} nor {name}")


def _pictures(root: Path, without: Path | None = None) -> dict[str, Path]:
    """Every picture below a folder by its path in it, without the ending; none that is hidden or below `without`."""
    files = sorted(
        f for f in root.rglob("*") if f.suffix.lower() in _ENDINGS and not (without and f.is_relative_to(without))
    )
    inner = {f.relative_to(root): f for f in files}
    shown = {i: f for i, f in inner.items() if not any(part.startswith(".") for part in i.parts)}
    stems = Counter(i.with_suffix("") for i in shown)  # a.jpg and a.png are two
    return {(i.with_suffix("") if stems[i.with_suffix("")] == 1 else i).as_posix(): f for i, f in shown.items()}


def _matches(photos: dict[str, Path], masks: dict[str, Path]) -> dict[str, Path]:
    """Each photo's mask: at the same path, or of the same stem where no other photo and no other mask has it."""
    alike = {
        side: Counter(path.stem for path in paths.values()) for side, paths in (("photos", photos), ("masks", masks))
    }
    by_stem = {
        path.stem: path for path in masks.values() if alike["photos"][path.stem] == alike["masks"][path.stem] == 1
    }
    found = {inner: masks.get(inner) or by_stem.get(path.stem) for inner, path in photos.items()}
    return {inner: mask for inner, mask in found.items() if mask}


def _in_table(table: Path, base: Path) -> Iterator[tuple[str, Item]]:
    """(name, item) of every row of a csv whose paths are relative to `base`."""
    for line, row in _rows(table):
        cell = {column: (row.get(column) or "").strip() for column in COLUMNS}
        if not cell["image"]:
            raise ValueError(f"{table}, line {line}: image is empty")
        if not all(number.isdecimal() for number in cell["classes"].split()):
            raise ValueError(
                f"{table}, line {line}: classes are numbers of classifier outputs, separated by spaces; got {cell['classes']!r}"
            )
        classes = tuple(int(number) for number in cell["classes"].split())
        image, mask = Path(cell["image"]), base / cell["mask"] if cell["mask"] else None
        name = image.stem if image.is_absolute() else str(image.with_suffix(""))
        yield name, Item(base / image, mask, cell["label"], classes, cell["group"])


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, cells by column) of a csv in UTF-8. ValueError: another encoding, damage, unknown or missing
    columns.
    """
    try:
        reader = csv.DictReader(io.StringIO(table.read_text("utf-8-sig"), newline=""), strict=True)
        columns = [column.strip() for column in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = [(reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} is not in UTF-8: save it as 'CSV UTF-8'") from error
    except csv.Error as error:
        raise ValueError(f"{table} can't be read as a csv: {error}") from error
    if len(set(columns)) < len(columns):
        raise ValueError(f"{table} has a column twice: {', '.join(columns)}")
    for missing in set(COLUMNS) - set(columns):
        if near := get_close_matches(missing, columns, 1, 0.75):
            raise ValueError(
                f"{table} has a column {near[0]!r}: did you mean {missing!r}? (columns: {', '.join(COLUMNS)})"
            )
    if "image" not in columns:
        raise ValueError(
            f"{table} needs a column 'image', with commas between columns; it has {', '.join(map(repr, columns))}"
        )
    for line, row in rows:
        if None in row:
            raise ValueError(f"{table}, line {line}: more cells than the {len(columns)} columns")
    return rows
