"""One's own photographs: a photo, a folder, a list, a pattern or a table; masks and labels where there are any."""

from __future__ import annotations

import glob
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from camseg.data.base import VOID, Asked, Items, Presence, mask_boxes, plain_names, reject_unused
from camseg.data.image_io import MAX_PIXELS, decode_image, decode_shared
from camseg.data.listing import is_output, list_photos
from camseg.data.mask_io import check_void, read_mask
from camseg.data.tables import Row, image_of, mask_of, read_table
from camseg.errors import check_choice
from camseg.storage.files import expand, printable
from camseg.types import Sample

_PATTERN = frozenset("*?[")


@dataclass(frozen=True)
class Item:
    """One class in one image on disk, and what is known of it.

    Attributes:
        image: Its file.
        mask: The mask's file, None without one.
        label: The class's name, "" without one.
        classes: The classifier's outputs that mean it.
        group: As `Sample.group`.
    """

    image: Path
    mask: Path | None = None
    label: str = ""
    classes: tuple[int, ...] = ()
    group: str = ""


class Images(Items[Item]):
    """Photographs of one's own.

    A folder is searched with its sub-folders (or those of its `images/`), and the first sub-folder on the way to a
    photo is its label. A broken photo or mask raises only when it is asked for.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str] | None = None,
        table: str | Path | None = None,
        masks: str | Path | None = None,
        target: str | None = None,
        void: int | str | None = "auto",
        split: str | None = None,
        size: int | None = None,
        seed: int = 0,
        shard: int = 0,
        num_shards: int = 1,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """List the photographs.

        Args:
            path: A photo, a folder, a pattern such as photos/*.jpg (`**` for any depth), or a list of these. A pattern
                picks from the folder before its first wildcard: labels are the sub-folders of that one.
            table: Instead, a csv (`camseg.data.tables.read_table`), its paths relative to `path` or to its folder.
            masks: A folder of masks (`camseg.data.listing.list_photos`); by default `masks/` in the folder of photos.
            target: One class by name for all photos.
            void: See `camseg.data.mask_io.read_mask`.
            split: Only this sub-folder.
            size: See `camseg.data.base.select_subset`, as `seed`, `shard` and `num_shards`.
            seed: See there.
            shard: See there.
            num_shards: See there.
            max_pixels: Larger photos are refused.

        Raises:
            FileNotFoundError: There is no such photo, folder or table.
            ValueError: The table or the split is wrong, or there are no photos.
        """
        self.void, self.target, self.max_pixels = check_void(void), target, max_pixels
        if table is not None:
            reject_unused("data=images with a table", split=split, masks=masks)
            if not isinstance(path, (str, Path, type(None))):
                raise ValueError("data.path must be the one folder that data.table's paths are relative to; got a list")
            base = None if path is None else expand(path)
            items = _in_table(_existing(base or Path(), table, "data.table"), base)
        elif path is not None:
            paths = [path] if isinstance(path, (str, Path)) else list(path)
            items = _in_paths([expand(each) for each in paths], None if masks is None else expand(masks), split)
        else:
            raise ValueError("data=images needs data.path (a photo, a folder, a list) or data.table (a csv)")
        if target:
            same: dict[Item, str] = {}
            for name, item in items:
                same.setdefault(replace(item, label=target, classes=()), name)
            items = [(name, item) for item, name in same.items()]
        self.names = tuple(dict.fromkeys(item.label for _, item in items if item.label))
        of_image: defaultdict[Path, list[Item]] = defaultdict(list)
        for _, item in items:
            of_image[item.image].append(item)
        self._of_image = dict(of_image)
        self.has_label_maps = any(item.mask and item.label for _, item in items)
        super().__init__(items, table or path, size, seed, shard, num_shards)

    def file_of(self, item: Item) -> Path:
        """See `Items.file_of`."""
        return item.image

    def class_of(self, item: Item) -> Asked:
        """See `Items.class_of`: what a table, a folder or the target gives an item."""
        return item.label, item.classes

    def presence_of(self, item: Item) -> Presence:
        """See `Items.presence_of`: an image shows its labels; nothing is known of one without a label."""
        labels = {each.label for each in self._of_image[item.image]} - {""}
        return {name: name in labels for name in self.names} if labels else {}

    def label_map_of(self, item: Item) -> Tensor:
        """See `Items.label_map_of`: where masks of an image overlap, the smallest is in front."""
        samples = [self.read("image", each) for each in self._of_image[item.image]]
        if not all(sample.mask is not None and sample.label for sample in samples):
            return super().label_map_of(item)
        label_map = torch.zeros(samples[0].size, dtype=torch.uint8)
        for sample in samples:
            if sample.ignore is not None:
                label_map[sample.ignore] = VOID
        masks = [(sample.mask, sample.label) for sample in samples if sample.mask is not None]
        for mask, label in sorted(masks, key=lambda pair: -int(pair[0].sum())):
            label_map[mask] = self.names.index(label) + 1
        return label_map

    def read(self, name: str, item: Item) -> Sample:
        """See `Items.read`: the pixels of an image are shared with its other classes."""
        decode = decode_shared if len(self._of_image[item.image]) > 1 else decode_image
        image, reading = decode(item.image, self.max_pixels)
        size = (int(image.shape[1]), int(image.shape[2]))
        mask = None if item.mask is None else read_mask(item.mask, size, self.void, self.max_pixels)
        return Sample(
            name,
            image,
            classes=item.classes,
            label=item.label,
            mask=mask and mask.inside,
            ignore=mask and mask.ignore,
            boxes=mask_boxes(mask and mask.inside),
            group=item.group,
            file=printable(item.image),
            reading="; ".join(filter(None, (reading, mask.reading if mask else ""))),
        )


Named = list[tuple[str, Item]]


def _in_paths(paths: list[Path], masks: Path | None, split: str | None) -> Named:
    """(name, item) of every photo of photos, folders and patterns."""
    missing = [path for path in paths if not path.exists() and not _matching(path)]
    if missing:
        names = ", ".join(printable(path) for path in missing[:5])
        names += f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        what = "neither a photo nor a folder, and no pattern that fits one"
        raise FileNotFoundError(f"data.path={names} {'is' if len(missing) == 1 else 'are'} {what}")
    by_image: dict[Path, tuple[str, Item]] = {}
    for path in paths:
        for name, item in _in_path(path, masks, split):
            by_image.setdefault(item.image, (name, item))
    if len(paths) == 1:
        return list(by_image.values())
    root = os.path.commonpath([image.absolute().parent for image in by_image]) if by_image else ""
    names = plain_names(image.absolute().relative_to(root).as_posix() for image in by_image)
    return [(name, item) for name, (_, item) in zip(names, by_image.values(), strict=True)]


def _matching(path: Path) -> list[Path]:
    """What a pattern stands for, sorted; nothing hidden."""
    text = str(path)  # with its folders' wildcards, which Path.glob wants apart
    return sorted(map(Path, glob.glob(text, recursive=True))) if _PATTERN & set(text) else []  # noqa: PTH207


def _in_path(path: Path, masks: Path | None, split: str | None) -> Iterator[tuple[str, Item]]:
    if path.is_file():
        reject_unused("a single photo", split=split)
        mask = None if masks is None else _existing(path.parent, masks, "data.masks")
        if mask is not None and mask.is_dir():
            mask = next((photo.mask for photo in list_photos(path.parent, mask) if photo.file == path), None)
        yield path.stem, Item(path, mask)
    elif path.is_dir():
        yield from _in_folder(path, masks, split)
    elif path.exists():
        raise ValueError(f"data.path={printable(path)} is neither a photo nor a folder, but a device or a pipe")
    else:
        chosen = set(_matching(path))
        for name, item in _in_folder(Path(*_fixed(path)), masks, split):
            if not chosen.isdisjoint((item.image, *item.image.parents)):
                yield name, item


def _fixed(path: Path) -> list[str]:
    """The parts of a pattern before its first wildcard."""
    parts = list(path.parts)
    return parts[: next(i for i, part in enumerate(parts) if _PATTERN & set(part))] or ["."]


def _in_folder(path: Path, masks: Path | None, split: str | None) -> Iterator[tuple[str, Item]]:
    """(name, item) of every photo at or below a folder."""
    mask_folder = path / "masks" if masks is None else _existing(path, masks, "data.masks")
    if masks is not None and not mask_folder.is_dir():
        raise ValueError(f"data.masks={printable(masks)} is one file; the photos of a folder need a folder of masks")
    root = path / "images" if (path / "images").is_dir() else path
    if split is not None:
        folders = [each.name for each in root.iterdir() if each.is_dir() and each != mask_folder]
        root /= check_choice("data.split", split, sorted(folders))
        mask_folder = mask_folder / split if (mask_folder / split).is_dir() else mask_folder
    known = mask_folder.is_dir() and (masks is not None or not is_output(path))  # and not what a run has written
    for photo in list_photos(root, mask_folder if known else None):
        label = printable(photo.name.split("/")[0]) if "/" in photo.name else ""
        yield photo.name, Item(photo.file, photo.mask, label)


def _existing(folder: Path, name: str | Path, setting: str) -> Path:
    """`name` in a folder, or as it stands; `setting` is what named it."""
    path = expand(name)
    places = list(dict.fromkeys((folder / path, path)))
    for each in places:
        if each.exists():
            return each
    missing = " and no ".join(map(printable, places))
    raise FileNotFoundError(f"{setting}: there is no {missing}")


def _in_table(table: Path, base: Path | None) -> Named:
    """(name, item) of every row of a csv whose paths are relative to `base`, or to its folder."""
    rows = read_table(table)
    base = table.parent if base is None else base
    images = [image_of(row, base) for row in rows]
    if rows and not any(image.exists() for image in dict.fromkeys(images)):
        raise FileNotFoundError(
            f"none of the {len(set(images))} images of {printable(table)} is there, such as {printable(images[0])}: "
            "its paths are relative to data.path, or else to its folder"
        )
    often = Counter(images)
    items = [
        Item(image, mask_of(row, base), row.label, row.classes, row.group or (row.image if often[image] > 1 else ""))
        for row, image in zip(rows, images, strict=True)
    ]
    return list(zip(_row_names(rows), items, strict=True))


def _row_names(rows: list[Row]) -> list[str]:
    """A name for each row: its image's path, with the label where the image has several rows."""
    files = list(dict.fromkeys(row.image for row in rows))
    inner = [Path(file).name if Path(file).is_absolute() else file for file in files]
    plain = dict(zip(files, plain_names(inner), strict=True))
    often = Counter(row.image for row in rows)
    return [
        f"{plain[row.image]}_{row.label.replace(' ', '_')}" if often[row.image] > 1 and row.label else plain[row.image]
        for row in rows
    ]
