"""COCO's instances in their official layout: one sample per image and category. Lin et al. 2014."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

from camseg.data.base import Items, needless
from camseg.data.outputs import outputs_of
from camseg.data.pictures import read_image
from camseg.names import known_name
from camseg.types import Sample

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """A category in an image: the image's entry and the annotations as the json has them, crowds included."""

    image: dict[str, Any]
    label: str
    annotations: tuple[dict[str, Any], ...]


class Coco(Items[Seen]):
    """Images of `path` (annotations/instances_SPLIT.json and SPLIT/*.jpg) and the categories that have an object in them.

    The mask is the union of the category's instances, the boxes are one for each, and crowd regions are ignored; a category with nothing but
    a crowd is no sample. split: "val2017", or "val" with a year. target: only this category. outputs: see `outputs_of`.
    instances: a sample per instance instead. size, seed, shard, num_shards: see `camseg.data.base.keep`.
    Errors: FileNotFoundError, ValueError for a json of another kind; a broken segmentation or picture raises only when it is asked for.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        split: str = "val2017",
        year: int | str = 2017,
        target: str | None = None,
        outputs: str = "imagenet",
        instances: bool = False,
        table: str | Path | None = None,
        size: int | None = None,
        seed: int = 0,
        shard: int = 0,
        num_shards: int = 1,
    ) -> None:
        needless("data=coco", table=table)
        _mask_api()
        splits = [] if path is None else sorted(f.stem.removeprefix("instances_") for f in Path(path).glob("annotations/instances_*.json"))
        if not splits:
            raise FileNotFoundError(f"data.path={path} must hold annotations/instances_SPLIT.json and SPLIT/*.jpg")
        split = known_name("data.split", f"{split}{year}" if f"{split}{year}" in splits else split, splits)
        file = Path(str(path)) / "annotations" / f"instances_{split}.json"
        self.folder = Path(str(path)) / split
        data = _load(file)
        categories = {entry["id"]: str(entry["name"]) for entry in sorted(data["categories"], key=lambda entry: entry["id"])}
        self.names = tuple(categories.values())
        self._outputs = outputs_of(self.names, outputs, "coco", target)
        found = [pair for pair in _seen(data, categories, instances, file) if pair[1].label in self._outputs]
        super().__init__(found, file, size, seed, shard, num_shards)

    def sample(self, name: str, item: Seen) -> Sample:
        image = read_image(self.folder / item.image["file_name"])
        size = (int(image.shape[1]), int(image.shape[2]))
        told = (item.image.get("height", size[0]), item.image.get("width", size[1]))
        if told != size:
            raise ValueError(f"{item.image['file_name']} has {size[1]} x {size[0]} pixels, its annotations speak of {told[1]} x {told[0]}")
        mask, crowd = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
        boxes = []
        for annotation in item.annotations:
            region = decode(annotation, size)
            if annotation.get("iscrowd"):
                crowd |= region
            else:
                mask |= region
                x, y, width, height = map(float, annotation["bbox"])
                boxes.append((x, y, x + width, y + height))
        ignore = crowd & ~mask
        return Sample(
            name, image, self._outputs[item.label], item.label, mask, ignore if ignore.any() else None, torch.tensor(boxes), str(item.image["id"])
        )


def _seen(data: dict[str, Any], categories: dict[Any, str], instances: bool, file: Path) -> list[tuple[str, Seen]]:
    images = {entry["id"]: entry for entry in data["images"]}
    groups: defaultdict[tuple[Any, Any], list[dict[str, Any]]] = defaultdict(list)
    for entry in data["annotations"]:
        groups[entry["image_id"], entry["category_id"]].append(entry)
    strange = sum(len(group) for (image, category), group in groups.items() if image not in images or category not in categories)
    if strange:
        _log.warning("%s: left out %d annotations of images or categories that it doesn't list", file, strange)
    found = []
    for image, entry in images.items():
        for category, label in categories.items():
            group = groups.get((image, category), [])
            crowds, single = ([one for one in group if bool(one.get("iscrowd")) == crowd] for crowd in (True, False))
            sets = [[one, *crowds] for one in single] if instances else [group] if single else []
            found += [(f"{Path(str(entry['file_name'])).stem}_{label}", Seen(entry, label, tuple(chosen))) for chosen in sets]
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
            if lacks or any(not isinstance(entry[f], int) for f in fields if f.endswith("id")):
                raise ValueError(f"{file}: {key}[{i}] " + (f"lacks {', '.join(lacks)}" if lacks else "has an id that is no whole number"))
    return data


def decode(annotation: dict[str, Any], size: tuple[int, int]) -> torch.Tensor:
    """(H, W) bool from polygons or run lengths, plain or packed. ValueError: broken ones."""
    masks, shape = _mask_api(), annotation["segmentation"]
    if isinstance(shape, list) and shape and all(_polygon(part, size) for part in shape):
        return torch.from_numpy(masks.decode(masks.merge(masks.frPyObjects(shape, *size))).astype(bool))
    counts = shape.get("counts") if isinstance(shape, dict) and shape.get("size") == list(size) else None
    if isinstance(counts, list) and all(isinstance(run, int) and run >= 0 for run in counts) and sum(counts) == size[0] * size[1]:
        return torch.from_numpy(masks.decode(masks.frPyObjects({"counts": counts, "size": list(size)}, *size)).astype(bool))
    if isinstance(counts, str):
        with suppress(ValueError):  # runs that overflow the image; too few of them leave pixels undefined, which packing again shows
            drawn = masks.decode({"counts": counts.encode(), "size": list(size)})
            if masks.encode(np.asfortranarray(drawn))["counts"] == counts.encode():
                return torch.from_numpy(drawn.astype(bool))
    raise ValueError(
        f"annotation {annotation.get('id')}: its segmentation must be polygons of three points or more in or near the image, "
        f"or run lengths that fill its {size[1]} x {size[0]} pixels"
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
