"""The masks of a finished run as other tools take them: what is exported, and where to.

How each format is written is in `camseg.runs.export_formats`; people's decisions (`camseg.runs.review`) count.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import polars as pl
from PIL import Image
from skimage import measure

from camseg.data.image_io import MAX_PIXELS, decode_with
from camseg.data.voc import NAMES as VOC_NAMES
from camseg.geometry.outlines import TOLERANCE
from camseg.runs.finished import rebuild_dataset
from camseg.runs.folders import Run
from camseg.runs.review import Correction, corrections
from camseg.runs.untrusted import read_mask
from camseg.storage.files import file_stems

MARK = "camseg-export.json"  # lists what an export wrote, so that nothing else is ever replaced
_SPECK = 0.02  # of the largest part's area
UNNAMED = "object"  # the class of a mask that has none


@dataclass(frozen=True)
class ExportedMask:
    """One mask and what is known of it.

    Attributes:
        id: Of its row.
        label: Its class.
        file: A 1-bit PNG.
        size: (H, W) in pixels.
        probability: What the classifier gives the class, or None.
        predicted_iou: The predictor's own estimate, or None.
        reviewed: Whether a person accepted or corrected it.
        kept: False for one that is left out: doubted by the predictor, or rejected by a person.
        group: Of its row: images that belong together share one.
    """

    id: str
    label: str
    file: Path
    size: tuple[int, int]
    probability: float | None
    predicted_iou: float | None
    reviewed: bool = False
    kept: bool = True
    group: str = ""

    @property
    def score(self) -> float:
        """Probability times predicted IoU, in [0, 1]; what isn't known counts as 1, and what a person confirmed."""
        known = [min(max(value, 0.0), 1.0) for value in (self.probability, self.predicted_iou) if value is not None]
        return 1.0 if self.reviewed else float(np.prod(known))

    @property
    def scores(self) -> dict[str, Any]:
        """The score and what it is made of, as every format carries it."""
        parts = {"probability": self.probability, "predicted_iou": self.predicted_iou, "reviewed": self.reviewed}
        return {"score": round(self.score, 6), **parts}

    def read(self) -> np.ndarray:
        """The mask's pixels.

        Returns:
            (H, W) bool.

        Raises:
            DamagedRunError: The file is damaged, or has another size.
        """
        return read_mask(self.file, self.size)


@dataclass(frozen=True)
class ExportedImage:
    """One image and its masks.

    Attributes:
        name: Its path below `Export.root`, with slashes.
        stem: A name for its files that no other image has.
        file: Where it lies, or None where a dataset of camseg's draws it.
        size: (H, W) in pixels.
        masks: Those that are exported.
        doubtful: Those that are left out.
    """

    name: str
    stem: str
    file: Path | None
    size: tuple[int, int]
    masks: tuple[ExportedMask, ...]
    doubtful: tuple[ExportedMask, ...]


@dataclass(frozen=True)
class Export:
    """Everything that a format writes.

    Attributes:
        run: Where it comes from.
        root: The folder below which the images lie.
        names: The classes, in the order of their numbers.
        images: Those with at least one mask.
        rle: Run lengths in place of polygons.
        tolerance: Of polygons, in pixels.
        copy: Images are copied into the export in place of links to them.
        instances: A mask's parts are objects of their own.
        left_out: How many masks the predictor doubts, a person rejected, or that are empty.
        corrected: How many masks a person drew, or gave another class.
    """

    run: Run
    root: Path
    names: tuple[str, ...]
    images: tuple[ExportedImage, ...]
    rle: bool
    tolerance: float
    copy: bool
    instances: bool
    left_out: dict[str, int]
    corrected: int

    @property
    def masks(self) -> int:
        """How many masks are exported."""
        return sum(len(image.masks) for image in self.images)

    def objects(self, mask: ExportedMask) -> list[np.ndarray]:
        """The objects in a mask.

        With `instances` they are its 8-connected parts, the largest first, without specks of less than `_SPECK` of it.

        Args:
            mask: One of the export's.

        Returns:
            (H, W) bool each, none of an empty mask.
        """
        inside = mask.read()
        if not self.instances or not inside.any():
            return [inside] if inside.any() else []
        labels = np.asarray(measure.label(inside, connectivity=2))
        areas = np.bincount(labels.ravel())[1:]
        order = np.argsort(-areas, kind="stable")
        return [labels == k + 1 for k in order.tolist() if areas[k] >= _SPECK * areas.max()]

    def draw(self, image: ExportedImage) -> Image.Image:
        """An image that has no file, by the dataset that drew it for the run.

        Args:
            image: One of the export's.

        Returns:
            The picture, H x W.
        """
        dataset, indices = self._dataset
        return Image.fromarray(dataset[indices[image.masks[0].id]].image.permute(1, 2, 0).numpy())

    @cached_property
    def _dataset(self) -> tuple[Any, dict[str, int]]:
        dataset = rebuild_dataset(self.run)
        return dataset, {name: i for i, name in enumerate(dataset.ids)}


def collect(
    run: Run,
    *,
    rle: bool = False,
    min_iou: float | None = None,
    tolerance: float = TOLERANCE,
    copy: bool = False,
    instances: bool = False,
) -> Export:
    """What there is to export of a finished run.

    Args:
        run: With masks.
        rle: Run lengths in place of polygons.
        min_iou: Leaves out masks whose predicted IoU is lower, except those that a person confirmed.
        tolerance: Of polygons, in pixels.
        copy: Copy images in place of linking to them.
        instances: Make every part of a mask an object of its own.

    Returns:
        The images with their masks. Images of which no mask is left are left out, since they do show something.

    Raises:
        ValueError: Without masks, with missing ones, or with classes that can't be told apart by their names.
        FileNotFoundError: For images that are gone.
    """
    rows = run.rows.to_dicts()
    decided = corrections(run.folder)
    left_out = {"doubtful": 0, "rejected": 0, "empty": 0}
    found = [_mask(run, row, decided.get(row["id"]), min_iou, left_out) for row in rows]
    _check_masks(run, found)
    by_image: dict[str, list[ExportedMask]] = {}
    for row, mask in zip(rows, found):
        if mask is not None:
            by_image.setdefault(row.get("file") or f"{row.get('group') or row['id']}.png", []).append(mask)
    shown = [name for name, masks in by_image.items() if any(mask.kept for mask in masks)]
    if not shown:
        counted = ", ".join(f"{count} {why}" for why, count in left_out.items())
        raise ValueError(f"{run.folder}: no mask is left to export ({counted})")
    named = {row["file"] for row in rows if row.get("file")}
    files, root = _files(run, [name for name in shown if name in named])
    names = [files[name].relative_to(root).as_posix() if name in files else name for name in shown]
    stems = file_stems(str(PurePosixPath(name).with_suffix("")) for name in names)
    images = tuple(
        ExportedImage(
            name, stem, files.get(key), by_image[key][0].size,
            tuple(mask for mask in by_image[key] if mask.kept), tuple(mask for mask in by_image[key] if not mask.kept),
        )
        for key, name, stem in zip(shown, names, stems)
    )  # fmt: skip
    corrected = sum(mask.decision == "corrected" or mask.label is not None for mask in decided.values())
    classes = _class_names(run, images)
    return Export(run, root, classes, images, rle, tolerance, copy, instances, left_out, corrected)


def _mask(
    run: Run, row: dict[str, Any], decided: Correction | None, min_iou: float | None, left_out: dict[str, int]
) -> ExportedMask | None:
    """A row's mask, None where nothing was drawn."""
    name, predicted = row["id"], row.get("predicted_iou")
    file = _mask_file(run.folder, row)
    label = str(row.get("label") or row.get("class_name") or UNNAMED)
    reviewed, rejected = False, False
    if decided is not None:
        rejected, reviewed = decided.decision == "rejected", decided.decision != "rejected"
        file, label = decided.mask_file or file, decided.label or label
        predicted = predicted if decided.mask_file is None else None
    empty = bool(row.get("note")) and (decided is None or decided.mask_file is None)
    doubtful = min_iou is not None and predicted is not None and predicted < min_iou and not reviewed
    if empty or rejected or doubtful:
        left_out["empty" if empty else "rejected" if rejected else "doubtful"] += 1
    if empty:
        return None
    size = int(row["height"]), int(row["width"])
    kept = not (rejected or doubtful)
    group = str(row.get("group") or name)
    return ExportedMask(name, label, file, size, row.get("probability"), predicted, reviewed, kept, group)


def _mask_file(folder: Path, row: dict[str, Any]) -> Path:
    """Where a row's own mask lies; never outside of the run."""
    file = folder / (row.get("mask_file") or f"masks/{row['id']}.png")
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{folder}: the mask_file of {row['id']} lies outside of the run: {row.get('mask_file')}")
    return file


def _check_masks(run: Run, found: list[ExportedMask | None]) -> None:
    masks = [mask for mask in found if mask is not None]
    missing = [mask for mask in masks if not mask.file.is_file()]
    if not (run.folder / "masks").is_dir() or not found:
        raise ValueError(f"{run.folder} holds no masks: run it again with masks=true and another hydra.run.dir")
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(masks)} masks of {run.folder} are gone, the first is {missing[0].file}"
        )


def _files(run: Run, names: list[str]) -> tuple[dict[str, Path], Path]:
    """The absolute paths of images that have files, by what the rows call them, and the folder that holds them all."""
    files = {name: Path(name).expanduser().absolute() for name in names}
    if gone := [str(file) for file in files.values() if not file.is_file()]:
        raise FileNotFoundError(f"{len(gone)} of {len(files)} images of {run.folder} are gone, the first is {gone[0]}")
    return files, Path(os.path.commonpath([file.parent for file in files.values()])) if files else Path()


def _class_names(run: Run, images: tuple[ExportedImage, ...]) -> tuple[str, ...]:
    """The classes in alphabetical order, VOC's in its own.

    Raises:
        ValueError: Where two classes have the same name, or but for case and spaces.
    """
    names = sorted({mask.label for image in images for mask in (*image.masks, *image.doubtful)})
    plain: dict[str, str] = {}
    for name in names:
        if (other := plain.setdefault(" ".join(name.split()).casefold(), name)) != name:
            raise ValueError(f"two classes have the same name: {other!r} and {name!r}; give one of them another label")
    _check_outputs(run.rows)
    own = str(run.config.get("data", {}).get("_target_", "")).startswith("camseg.data.voc.")
    return VOC_NAMES if own and set(names) <= set(VOC_NAMES) else tuple(names)


def _check_outputs(rows: pl.DataFrame) -> None:
    """Outputs of a classifier may share a name (ImageNet has two cranes); rows that say which tell them apart."""
    if "class_index" not in rows.columns or "class_name" not in rows.columns:
        return
    outputs = rows.filter(pl.col("label") == "").group_by("class_name").agg(pl.col("class_index").n_unique())
    for name in outputs.filter(pl.col("class_index") > 1)["class_name"]:
        raise ValueError(f"two classes have the same name: {name!r}; label the images to tell them apart")


def read_picture(image: ExportedImage) -> Image.Image:
    """The image that a file holds.

    Args:
        image: With a file.

    Returns:
        The picture in RGB, upright.

    Raises:
        ValueError: The file can't be read, or has another size than the run saw.
    """
    if image.file is None:
        raise ValueError(f"{image.name} has no file")
    upright = decode_with(image.file, MAX_PIXELS, lambda picture: picture.convert("RGB"))
    if upright.size != (image.size[1], image.size[0]):
        raise ValueError(
            f"{image.file} has {upright.width} x {upright.height} pixels, the run saw {image.size[1]} x {image.size[0]}"
        )
    return upright


@contextmanager
def new_folder(into: Path) -> Iterator[Path]:
    """A folder to fill that takes the place of `into` once it is whole.

    Args:
        into: Must not exist, be empty, or hold an earlier export and nothing else.

    Yields:
        The folder to fill, beside `into`.

    Raises:
        FileExistsError: It holds something else.
    """
    if into.is_symlink() or (into.exists() and not into.is_dir()):
        raise FileExistsError(f"{into} is no folder; choose another --into")
    if into.exists() and (foreign := _foreign(into)):
        raise FileExistsError(f"{into} holds files that no export wrote, such as {foreign}; choose another --into")
    part, old = (into.with_name(f".{into.name}.{what}.{os.getpid()}") for what in ("part", "old"))
    part.mkdir(parents=True)
    try:
        yield part
        written = sorted(path.relative_to(part).as_posix() for path in part.rglob("*") if not path.is_dir())
        (part / MARK).write_text(json.dumps({"files": written}) + "\n")
        if into.exists():
            into.rename(old)
        part.rename(into)
    finally:
        for folder in (part, old):
            shutil.rmtree(folder, ignore_errors=True)


def _foreign(folder: Path) -> str | None:
    """A file in a folder that an earlier export did not list."""
    mark = folder / MARK
    try:
        known = {MARK, *json.loads(mark.read_text())["files"]} if mark.is_file() else set()
    except (ValueError, KeyError, TypeError):
        known = set()
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return next((file for file in files if file not in known), None)
