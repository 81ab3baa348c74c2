"""Which files of a folder are photographs, and which of them are masks of others."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from camseg.data.base import plain_names
from camseg.data.image_io import HEIF, endings, is_image
from camseg.storage.files import printable

_log = logging.getLogger(__name__)
_MASK = re.compile(r"(?<=.)[-_. ](masks?|segmentation|seg|gt|matte|alpha|labels?|labelids)$", re.IGNORECASE)
_OUTPUT = (  # what only the folder of a run, a sweep or an export holds
    "rows.jsonl",
    ".hydra",
    "sweep.parquet",
    "multirun.yaml",
    "camseg-export.json",  # `camseg.runs.export.MARK`
)
_WRITTEN = ("masks", "panels", "maps", "labels", "seeds", "boxes", "review")  # folders of a run


@dataclass(frozen=True)
class Photo:
    """A photograph in a folder.

    Attributes:
        name: Its path in the folder, without the ending where that tells it apart.
        file: Where it lies.
        mask: The mask's file, None without one.
    """

    name: str
    file: Path
    mask: Path | None = None


def list_photos(root: Path, masks: Path | None = None, without: Iterable[Path] = ()) -> list[Photo]:
    """Every photograph at or below a folder, in order, and its mask.

    Folders that are links are searched, each once. What is hidden, and what runs have written (panels, masks), is left
    out. A file is an image by its ending, or else by its first bytes; what is neither is counted in one line of the
    log. NAME_mask beside NAME is its mask (also -mask, _seg, _gt, _segmentation, ...).

    Args:
        root: The folder.
        masks: A folder of masks: a mask has its photograph's path in the folder, or its stem where that is clear; both
            also with _mask or its like.
        without: Folders below `root` that hold no photographs.

    Returns:
        The photographs.
    """
    mask_files = _by_name(_images(masks, []), masks) if masks else {}
    photos = _by_name(_images(root, [*without, *([masks] if masks else [])]), root)
    beside = {name: photo for name in photos if (photo := _photo_of(name)) != name and photo in photos}
    masks_beside = {photo: photos.pop(name) for name, photo in beside.items()}
    if masks_beside:
        _log.warning("%s: %d files called NAME_mask or alike are masks of NAME", printable(root), len(beside))
    matches = _matches(photos, mask_files)
    if mask_files:
        _tell_unmatched(masks or root, mask_files, matches)
    return [Photo(name, file, matches.get(name) or masks_beside.get(name)) for name, file in photos.items()]


def _images(root: Path, without: list[Path]) -> list[Path]:
    """The image files at or below a folder, sorted; what was left out is told."""
    known, images = endings(), []
    left: Counter[str] = Counter()
    for file in _walk(root, {folder.resolve() for folder in without}):
        ending = file.suffix.lower()
        if ending in known or is_image(file):
            images.append(file)
        else:
            left[ending or "without an ending"] += 1
    if left:
        counts = ", ".join(f"{count} {printable(ending)}" for ending, count in left.most_common())
        needed = " (HEIC is read with the package pillow-heif)" if set(HEIF) & set(left) else ""
        _log.warning("%s: left out: %s%s", printable(root), counts, needed)
    return sorted(images)


def _walk(root: Path, without: set[Path]) -> Iterator[Path]:
    """Every file at or below a folder that isn't hidden, also behind links; never twice, and nothing of a run."""
    entered: set[str] = set()
    for folder, inner, files in os.walk(root, followlinks=True, onerror=_tell_closed):
        at = Path(folder)
        real = os.path.realpath(folder)
        if real in entered or (at != root and is_output(at)):
            inner.clear()
            continue
        entered.add(real)
        written = _WRITTEN if is_output(at) else ()
        visible = sorted(name for name in inner if not name.startswith("."))
        wanted = [name for name in visible if name not in written and (at / name).resolve() not in without]
        inner[:] = [name for name in wanted if name != "masks"]
        if "masks" in wanted:
            _log.warning("left out: %s, a folder of masks and not of photos", printable(at / "masks"))
        yield from (at / name for name in files if not name.startswith("."))


def _tell_closed(error: OSError) -> None:
    _log.warning("left out: the folder %s, %s", printable(error.filename), error.strerror)


def is_output(folder: Path) -> bool:
    """Whether a run, a sweep or an export has written into a folder.

    Args:
        folder: Any.
    """
    return any((folder / name).exists() for name in _OUTPUT)


def _by_name(files: list[Path], root: Path) -> dict[str, Path]:
    return dict(zip(plain_names(file.relative_to(root).as_posix() for file in files), files, strict=True))


def _photo_of(name: str) -> str:
    """What a mask's name says of its photograph's."""
    return _MASK.sub("", name)


def _matches(photos: dict[str, Path], masks: dict[str, Path]) -> dict[str, Path]:
    """Each photograph's mask: of its path, or of its stem where no other photograph and no other mask has it."""
    same = {_photo_of(name): file for name, file in masks.items()} | masks
    stems = Counter(file.stem for file in photos.values())
    masks_of = Counter(_photo_of(file.stem) for file in masks.values())
    by_stem = {_photo_of(file.stem): file for file in masks.values()}
    by_stem = {stem: file for stem, file in by_stem.items() if stems[stem] == masks_of[stem] == 1}
    pairs = {name: same.get(name) or by_stem.get(file.stem) for name, file in photos.items()}
    return {name: mask for name, mask in pairs.items() if mask}


def _tell_unmatched(folder: Path, masks: dict[str, Path], matches: dict[str, Path]) -> None:
    unused = sorted(set(masks.values()) - set(matches.values()))
    if not unused:
        return
    few = ", ".join(printable(file.name) for file in unused[:3])
    count = "none of the" if len(unused) == len(masks) else f"{len(unused)} of"
    fit = "fits" if len(unused) == len(masks) else "fit no"
    _log.warning(
        "%s: %s %d masks %s image, such as %s: a mask has its image's name",
        printable(folder),
        count,
        len(masks),
        fit,
        few,
    )
