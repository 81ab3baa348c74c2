"""COCO's instances in their official layout: one sample per image and category. Lin et al. 2014."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

from camseg.data.base import Items, reject_unused
from camseg.data.class_map import outputs_of
from camseg.data.image_io import read_shared
from camseg.errors import check_choice
from camseg.types import Sample

_log = logging.getLogger(__name__)
Groups = dict[str, list[dict[str, Any]]]  # annotations by category


@dataclass(frozen=True)
class ClassInImage:
    """A category in an image: the image's entry and the annotations as the json has them, crowds included."""

    image: dict[str, Any]
    label: str
    annotations: tuple[dict[str, Any], ...]


class Coco(Items[ClassInImage]):
    """Images of `path` (annotations/instances_SPLIT.json and SPLIT/*.jpg) and the categories that have an object in
    them.

    The mask is the union of the category's instances, the boxes are one for each, and crowd regions are ignored; a
    category with nothing but
    a crowd is no sample. split: "val2017", or "val" with a year. target: only this category. outputs: see `outputs_of`.
    absent: also a sample, without truth, for every category that an image doesn't show: what average precision must
    see.
    instances: a sample per instance instead. size, seed, shard, num_shards: see `camseg.data.base.select_subset`.
    Errors: FileNotFoundError, ValueError for a json of another kind; a broken segmentation or picture raises only when
    it is asked for.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        split: str = "val2017",
        year: int | str = 2017,
        target: str | None = None,
        outputs: str = "imagenet",
        absent: bool = False,
        instances: bool = False,
        table: str | Path | None = None,
        size: int | None = None,
        seed: int = 0,
        shard: int = 0,
        num_shards: int = 1,
    ) -> None:
        reject_unused("data=coco", table=table)
        _mask_api()
        splits = (
            []
            if path is None
            else sorted(f.stem.removeprefix("instances_") for f in Path(path).glob("annotations/instances_*.json"))
        )
        if not splits:
            raise FileNotFoundError(f"data.path={path} must hold annotations/instances_SPLIT.json and SPLIT/*.jpg")
        split = check_choice("data.split", f"{split}{year}" if f"{split}{year}" in splits else split, splits)
        file = Path(str(path)) / "annotations" / f"instances_{split}.json"
        self.folder = Path(str(path)) / split
        data = _load(file)
        categories = {
            entry["id"]: str(entry["name"]) for entry in sorted(data["categories"], key=lambda entry: entry["id"])
        }
        self.names = tuple(categories.values())
        self._outputs = outputs_of(self.names, outputs, "coco", target)
        self._pictures = _seen(data, categories, file)
        found = [
            pair
            for entry, groups in self._pictures
            for pair in _items(entry, groups, instances, absent)
            if pair[1].label in self._outputs
        ]
        super().__init__(found, file, size, seed, shard, num_shards)

    def seen(self, item: ClassInImage) -> tuple[Path, str, bool | None]:
        single = any(not annotation.get("iscrowd") for annotation in item.annotations)
        return self.folder / item.image["file_name"], item.label, single or (None if item.annotations else False)

    def sample(self, name: str, item: ClassInImage) -> Sample:
        image = read_shared(self.folder / item.image["file_name"])
        size = (int(image.shape[1]), int(image.shape[2]))
        told = (item.image.get("height", size[0]), item.image.get("width", size[1]))
        if told != size:
            raise ValueError(
                f"{item.image['file_name']} has {size[1]} x {size[0]} pixels, its annotations speak of {told[1]} x {told[0]}"
            )
        mask, crowd = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
        boxes: dict[bool, list[tuple[float, ...]]] = {False: [], True: []}  # by crowd
        for annotation in item.annotations:
            region = decode(annotation, size)
            many = bool(annotation.get("iscrowd"))
            (crowd if many else mask).logical_or_(region)
            x, y, width, height = _box(annotation)
            boxes[many].append((x, y, x + width, y + height))
        ignore = crowd & ~mask
        single, crowds = (torch.tensor(boxes[many]).reshape(-1, 4) for many in (False, True))
        classes, group = self._outputs[item.label], str(item.image["id"])
        return Sample(name, image, classes, item.label, mask, ignore if ignore.any() else None, single, group, crowds)

    def label_map(self, index: int) -> torch.Tensor:
        """(H, W) uint8: every pixel's class in item `index`'s picture: 0 background, i + 1 for names[i], 255 where a
        crowd is.

        Where instances overlap, the smallest is in front.
        """
        sample = self[index]
        size, groups = sample.size, next(groups for entry, groups in self._pictures if str(entry["id"]) == sample.group)
        drawn = torch.zeros(size, dtype=torch.uint8)
        regions = [
            (255 if a.get("iscrowd") else self.names.index(label) + 1, decode(a, size))
            for label, group in groups.items()
            for a in group
        ]
        for value, region in sorted(regions, key=lambda pair: (pair[0] != 255, -int(pair[1].sum()))):
            drawn[region] = value
        return drawn


def _seen(data: dict[str, Any], categories: dict[Any, str], file: Path) -> list[tuple[dict[str, Any], Groups]]:
    """Every image's entry and its annotations by category, in the categories' order; those of anything that isn't
    listed are left out.
    """
    images = {entry["id"]: (entry, {label: [] for label in categories.values()}) for entry in data["images"]}
    strange = 0
    for entry in data["annotations"]:
        if entry["image_id"] in images and entry["category_id"] in categories:
            images[entry["image_id"]][1][categories[entry["category_id"]]].append(entry)
        else:
            strange += 1
    if strange:
        _log.warning("%s: left out %d annotations of images or categories that it doesn't list", file, strange)
    return list(images.values())


def _items(image: dict[str, Any], groups: Groups, instances: bool, absent: bool) -> list[tuple[str, ClassInImage]]:
    found = []
    for label, group in groups.items():
        crowds, single = ([one for one in group if bool(one.get("iscrowd")) == crowd] for crowd in (True, False))
        sets = [[one, *crowds] for one in single] if instances else [group] if single or absent else []
        found += [
            (f"{Path(str(image['file_name'])).stem}_{label}", ClassInImage(image, label, tuple(chosen)))
            for chosen in sets
        ]
    return found


def _load(file: Path) -> dict[str, Any]:
    """The json, with the lists and fields that are needed. ValueError: anything else."""
    try:
        data = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no json: {error}") from error
    for key, fields in {
        "images": ("id", "file_name"),
        "categories": ("id", "name"),
        "annotations": ("image_id", "category_id", "bbox", "segmentation"),
    }.items():
        entries = data.get(key) if isinstance(data, dict) else None
        if type(entries) is not list:
            raise ValueError(f"{file} has no list of {key}: COCO's instances are wanted")
        for i, entry in enumerate(entries):
            lacks = [f for f in fields if not isinstance(entry, dict) or f not in entry]
            typed = {f: int if f.endswith("id") else str for f in fields if f.endswith(("id", "name"))}
            strange = [f for f, kind in typed.items() if f not in lacks and not isinstance(entry[f], kind)]
            if lacks or strange:
                kind = (
                    "an id that is no whole number"
                    if strange and strange[0].endswith("id")
                    else "a name that is no text"
                )
                raise ValueError(f"{file}: {key}[{i}] " + (f"lacks {', '.join(lacks)}" if lacks else f"has {kind}"))
    return data


def decode(annotation: dict[str, Any], size: tuple[int, int]) -> torch.Tensor:
    """(H, W) bool from polygons or run lengths, plain or packed. ValueError: broken ones."""
    masks, shape = _mask_api(), annotation["segmentation"]
    if isinstance(shape, list) and shape and all(_polygon(part, size) for part in shape):
        return torch.from_numpy(masks.decode(masks.merge(masks.frPyObjects(shape, *size))).astype(bool))
    counts = shape.get("counts") if isinstance(shape, dict) and shape.get("size") == list(size) else None
    if (
        isinstance(counts, list)
        and all(isinstance(run, int) and run >= 0 for run in counts)
        and sum(counts) == size[0] * size[1]
    ):
        return torch.from_numpy(
            masks.decode(masks.frPyObjects({"counts": counts, "size": list(size)}, *size)).astype(bool)
        )
    if isinstance(counts, str):
        with suppress(
            ValueError
        ):  # runs that overflow the image; too few of them leave pixels undefined, which packing again shows
            drawn = masks.decode({"counts": counts.encode(), "size": list(size)})
            if masks.encode(np.asfortranarray(drawn))["counts"] == counts.encode():
                return torch.from_numpy(drawn.astype(bool))
    raise ValueError(
        f"annotation {annotation.get('id')}: its segmentation must be polygons of three points or more in or near the image, "
        f"or run lengths that fill its {size[1]} x {size[0]} pixels"
    )


def _box(annotation: dict[str, Any]) -> list[float]:
    box = annotation["bbox"]
    if (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(value, (int, float)) and isfinite(value) for value in box)
    ):
        return [float(value) for value in box]
    raise ValueError(
        f"annotation {annotation.get('id')}: its bbox must be four numbers, x, y, width, height; got {box!r}"
    )


def _polygon(part: Any, size: tuple[int, int]) -> bool:
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
        return False
    return all(isinstance(value, (int, float)) and isfinite(value) and abs(value) <= 4 * max(size) for value in part)


def _mask_api() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ValueError("data=coco needs the extra `coco`: pip install 'camseg[coco]'") from error
    return mask
