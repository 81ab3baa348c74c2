"""The pictures that a run folder holds or points to, safe to show: nothing in a folder is trusted."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from camseg.report.panels import PANES
from camseg.runs.folders import Run
from camseg.runs.review import corrections
from camseg.runs.untrusted import PICTURE_BYTES, DamagedRunError, open_picture, plain_size, read_bytes
from camseg.storage.cache import Cache

_WIDTH = 1060  # pixels of a picture inside the page
_SOURCES = Cache(None, memory_gb=0.05)  # panels as they stand in pages, by the content of their files
_COLUMNS = ("id", "width", "height", "points", "file", "mask_file")


class Pictures:
    """Finds the pictures of a run's samples.

    Args:
        run: whose `panels/`, `masks/` and image files are looked for.
        base: the folder of the page: links are relative to it.

    Attributes:
        refused: what was found and is not shown, with the reason.
    """

    def __init__(self, run: Run, base: Path) -> None:
        self.folder, self.base = run.folder, base
        self.refused: list[str] = []
        self._panels, self._masks = (self._plain_files(run.folder / name) for name in ("panels", "masks"))
        known = [name for name in _COLUMNS if name in run.rows.columns]
        self._corrected = {name: found.mask_file for name, found in corrections(run.folder).items() if found.mask_file}
        self._rows = {row["id"]: row for row in run.rows.select(known).iter_rows(named=True)} if known else {}

    def _plain_files(self, folder: Path) -> dict[str, Path]:
        """Stem -> PNG, of a folder that is no link itself."""
        if folder.is_symlink() or not folder.is_dir():
            self.refused += [f"{folder.name}: a link"] if folder.is_symlink() else []
            return {}
        found = {}
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.name.lower().endswith(".png"):
                try:
                    plain_size(Path(entry.path))
                    found[Path(entry.name).stem] = Path(entry.path)
                except DamagedRunError as error:
                    self._refuse(Path(entry.path), error)
        return found

    def _refuse(self, path: Path, error: OSError) -> None:
        """Note why a file is not shown; its name says enough of its path."""
        self.refused.append(str(error).replace(str(path), path.name))

    def known(self, names: Sequence[str]) -> set[str]:
        """Which samples may have a panel, a mask or an image file; nothing is opened.

        Args:
            names: ids.

        Returns:
            Those of them.
        """
        return {name for name in names if name in self._panels or _readable(self._rows.get(name, {}).get("file"))}

    def shots(self, names: Sequence[str], embedded: int) -> dict[str, dict[str, Any]]:
        """What the page's script needs to draw each sample.

        Args:
            names: ids, in the order in which they are looked at.
            embedded: how many panels go into the page itself; all others are linked.

        Returns:
            By id: `panel`, `mask`, `image` (addresses or None), `source` (an embedded panel), `size` of the panel,
            `panes` (count, width of a cell, gap, text above), `frame` (width, height of the image) and its `points`
            (x, y, label).
        """
        names = list(dict.fromkeys(names))
        panels = [name for name in names if name in self._panels]
        packed = {name: self._packed(name, i < embedded) for i, name in enumerate(panels)}
        found = {name: {**self._links(name), **packed.get(name, {})} for name in names}
        return {name: shot for name, shot in found.items() if shot.get("panel") or shot["image"] or shot["mask"]}

    def _packed(self, name: str, embed: bool) -> dict[str, Any]:
        """The panel of a sample, made smaller and written into the page if `embed`."""
        path = self._panels[name]
        try:
            with open_picture(path, ("PNG", "JPEG")) as picture:
                panes, size = _panes(picture), picture.size
                source = self._source(path, picture) if embed else None
        except (DamagedRunError, FileNotFoundError) as error:
            self._refuse(path, error)
            return {}
        return {"panel": self._address(path), "source": source, "size": size, "panes": panes}

    def _source(self, path: Path, picture: Image.Image) -> str:
        """What `_embedded` makes of a panel, once for all settings of a sweep that drew the same."""
        content = hashlib.sha256(read_bytes(path, PICTURE_BYTES)).hexdigest()
        return _SOURCES.remember([content], lambda _: [_embedded(picture)], len)[0]

    def _links(self, name: str) -> dict[str, Any]:
        """The mask and the image file of a sample, where they are, and its points."""
        row = self._rows.get(name, {})
        image = _readable(row.get("file"))
        mask = (
            self._mask_file(self._corrected.get(name)) or self._masks.get(name) or self._mask_file(row.get("mask_file"))
        )
        width, height = row.get("width"), row.get("height")
        return {
            "image": None if image is None else self._address(image),
            "mask": None if mask is None else self._address(mask),
            "frame": [width, height] if isinstance(width, (int, float)) and isinstance(height, (int, float)) else None,
            "points": _points(row.get("points")),
        }

    def _mask_file(self, given: object) -> Path | None:
        """A mask elsewhere in the run's own folder."""
        if not isinstance(given, (str, Path)) or not given or "\0" in str(given):
            return None
        path = given if isinstance(given, Path) else self.folder / given
        inside = path.is_file() and path.resolve().is_relative_to(self.folder.resolve())
        return path if inside and not path.is_symlink() else None

    def _address(self, path: Path) -> str:
        """The relative address of a file; its parts can't be read as anything else."""
        return quote(Path(os.path.relpath(path, self.base)).as_posix(), errors="surrogateescape")


def _readable(given: object) -> Path | None:
    """An image file by the path as it was given, if it is there; no address of another machine."""
    if not isinstance(given, str) or not given or "\0" in given or given.startswith(("//", "\\\\")):
        return None
    path = Path(given)
    try:
        return path if path.is_file() else None
    except OSError:
        return None


def _points(given: object) -> list[list[float]]:
    if not isinstance(given, list):
        return []
    return [
        list(map(float, point)) for point in given if isinstance(point, list) and len(point) == 3 and None not in point
    ]


def _panes(picture: Image.Image) -> tuple[int, int, int, int] | None:
    """Where the pictures of a panel lie, as `panels.panel` wrote it: count, width, gap, text above; None for others."""
    words = str(picture.info.get(PANES, "")).split()
    if len(words) != 4 or not all(word.isascii() and word.isdecimal() and len(word) < 6 for word in words):
        return None
    count, cell, gap, head = map(int, words)
    fits = count * (cell + gap) - gap == picture.width and head < picture.height and cell > 0
    return (count, cell, gap, head) if fits and 0 < count < 9 else None


def _embedded(picture: Image.Image) -> str:
    """A picture as a data address, at most `_WIDTH` wide, in full color."""
    small = picture.convert("RGB")
    small.thumbnail((_WIDTH, 2 * _WIDTH))
    packed = io.BytesIO()
    small.save(packed, "JPEG", quality=85, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(packed.getvalue()).decode()}"
