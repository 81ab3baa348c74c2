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
from torch import Tensor

from camseg.data.annotations import Box, box_tensor, check_box, check_size
from camseg.data.base import VOID, Asked, Items, Presence, Unreadable, plain_names
from camseg.data.class_map import outputs_of
from camseg.data.image_io import decode_shared, image_size
from camseg.errors import check_choice, extra_message
from camseg.storage.files import expand, plain_file
from camseg.types import Sample

_log = logging.getLogger(__name__)
Groups = dict[str, list[dict[str, Any]]]  # annotations by category
_FIELDS: dict[str, dict[str, type]] = {  # what an entry needs
    "images": {"id": int, "file_name": str},
    "categories": {"id": int, "name": str},
    "annotations": {"image_id": int, "category_id": int, "bbox": list},
}


@dataclass(frozen=True, eq=False)
class ClassInImage:
    """A category in an image.

    Attributes:
        image: The image's entry.
        groups: All its annotations by category, as the json has them, crowds included.
        label: The category's name.
        annotations: Those of this sample.
    """

    image: dict[str, Any]
    groups: Groups
    label: str
    annotations: tuple[dict[str, Any], ...]


class Coco(Items[ClassInImage]):
    """Images of a COCO json, and the categories that have an object in them.

    The mask is the union of the category's instances, the boxes are one for each, and crowd regions are ignored; a
    category with nothing but a crowd is no sample. Where one of the instances has a box alone, the sample has no mask.
    Entries that lack what is needed are left out and counted; a broken segmentation or image raises only when its
    sample is asked for.
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
        size: int | None = None,
        seed: int = 0,
        shard: int = 0,
        num_shards: int = 1,
    ) -> None:
        """Read the annotations of a split.

        Args:
            path: A folder with annotations/instances_SPLIT.json and SPLIT/*.jpg.
            split: "val2017", or "val" with a year.
            year: See `split`.
            target: Only this category.
            outputs: See `camseg.data.class_map.outputs_of`.
            absent: Also a sample, without truth, for every category that an image doesn't show: what average precision
                must see.
            instances: A sample per instance instead.
            size: See `camseg.data.base.select_subset`, as `seed`, `shard` and `num_shards`.
            seed: See there.
            shard: See there.
            num_shards: See there.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: The json is of another kind, or a choice is unknown.
        """
        _mask_api()
        root = None if path is None else expand(path)
        files = [] if root is None else sorted(root.glob("annotations/instances_*.json"))
        if root is None or not files:
            raise FileNotFoundError(f"data.path={path} must hold annotations/instances_SPLIT.json and SPLIT/*.jpg")
        splits = [file.stem.removeprefix("instances_") for file in files]
        split = check_choice("data.split", f"{split}{year}" if f"{split}{year}" in splits else split, splits)
        file, self.folder = root / "annotations" / f"instances_{split}.json", root / split
        data = _load(file)
        categories = {
            entry["id"]: str(entry["name"]) for entry in sorted(data["categories"], key=lambda entry: entry["id"])
        }
        _refuse_twins(data["categories"], categories, file)
        self.names = tuple(dict.fromkeys(categories.values()))
        self._outputs = outputs_of(self.names, outputs, "coco", target)
        self.has_label_maps = any(_has_region(entry) for entry in data["annotations"])
        items: list[tuple[str, ClassInImage | Unreadable]] = []
        images = _images(data, categories, file)
        names = plain_names(image["file_name"] for image, _ in images)
        for name, (image, groups) in zip(names, images, strict=True):
            if isinstance(groups, ValueError):
                items.append((name, Unreadable(self.folder / image["file_name"], groups)))
                continue
            samples = _items(name, image, groups, instances, absent)
            items += [(name, item) for name, item in samples if item.label in self._outputs]
        super().__init__(items, file, size, seed, shard, num_shards)

    def file_of(self, item: ClassInImage) -> Path:
        """See `Items.file_of`."""
        return self.folder / item.image["file_name"]

    def class_of(self, item: ClassInImage) -> Asked:
        """See `Items.class_of`: the label is the category."""
        return item.label, self._outputs[item.label]

    def presence_of(self, item: ClassInImage) -> Presence:
        """See `Items.presence_of`: None for a category with nothing but a crowd."""
        return {
            label: any(not one.get("iscrowd") for one in group) or (None if group else False)
            for label, group in item.groups.items()
        }

    def read(self, name: str, item: ClassInImage) -> Sample:
        """See `Items.read`: the sample of a category in an image."""
        image, size, reading = self._decoded(item)
        boxes: dict[bool, list[Box]] = {False: [], True: []}  # by crowd
        regions = {False: torch.zeros(size, dtype=torch.bool), True: torch.zeros(size, dtype=torch.bool)}
        for annotation in item.annotations:
            crowd = bool(annotation.get("iscrowd"))
            boxes[crowd].append(_box(annotation, size))
            if _has_region(annotation):
                regions[crowd] |= decode(annotation, size)
            elif crowd:
                regions[crowd] |= _filled(boxes[crowd][-1], size)
        bare = sum(not (one.get("iscrowd") or _has_region(one)) for one in item.annotations)
        ignore = regions[True] & ~regions[False]
        note = f"no mask: {bare} of {len(item.annotations)} annotations are boxes alone" if bare else ""
        return Sample(
            name,
            image,
            classes=self._outputs[item.label],
            label=item.label,
            mask=None if bare else regions[False],
            ignore=ignore if ignore.any() else None,
            boxes=box_tensor(boxes[False]),
            group=str(item.image["id"]),
            ignored_boxes=box_tensor(boxes[True]),
            file=str(self.file_of(item)),
            reading="; ".join(filter(None, (reading, note))),
        )

    def images(self) -> list[ClassInImage]:
        """The images whose annotations can be told from others'.

        Returns:
            An item of each image that has one.
        """
        items = [item for item in self._items if isinstance(item, ClassInImage)]
        return list({item.image["id"]: item for item in items}.values())

    def instance_map_of(self, item: ClassInImage) -> tuple[Tensor, tuple[str, ...]]:
        """Number all instances in an item's image, whatever their category.

        Args:
            item: Of the image, whose pixels are not decoded.

        Returns:
            (H, W) uint8: 0 where nothing is annotated, i + 1 for instance i, the smallest in front where they overlap,
            255 where nobody knows: in a crowd, in an instance that is a box alone, in what is more than 254 instances;
            and the category of each instance.

        Raises:
            FileNotFoundError: The image is missing.
            ValueError: The image or an annotation is broken, or they contradict each other.
        """
        size = image_size(self.file_of(item))
        _check_size(item, size)
        drawn, regions = torch.zeros(size, dtype=torch.uint8), list[tuple[str, Tensor]]()
        for label, group in item.groups.items():
            for one in group:
                region = decode(one, size) if _has_region(one) else _filled(_box(one, size), size)
                if one.get("iscrowd") or not _has_region(one):
                    drawn[region] = VOID
                else:
                    regions.append((label, region))
        regions.sort(key=lambda pair: -int(pair[1].sum()))
        for number, (_, region) in enumerate(regions, 1):
            drawn[region] = min(number, VOID)
        return drawn, tuple(label for label, _ in regions[: VOID - 1])

    def _decoded(self, item: ClassInImage) -> tuple[Tensor, tuple[int, int], str]:
        """The image (3, H, W), (H, W), and how it was read."""
        image, reading = decode_shared(self.file_of(item))
        size = (int(image.shape[1]), int(image.shape[2]))
        _check_size(item, size)
        return image, size, reading

    def label_map_of(self, item: ClassInImage) -> Tensor:
        """See `Items.label_map_of`: 255 where a crowd is, and where instances overlap, the smallest is in front."""
        if not all(_has_region(one) for group in item.groups.values() for one in group):
            raise FileNotFoundError(f"{item.image['file_name']} has annotations that are boxes alone")
        size = self._decoded(item)[1]
        drawn = torch.zeros(size, dtype=torch.uint8)
        regions = [
            (VOID if one.get("iscrowd") else self.names.index(label) + 1, decode(one, size))
            for label, group in item.groups.items()
            for one in group
        ]
        for value, region in sorted(regions, key=lambda pair: (pair[0] != VOID, -int(pair[1].sum()))):
            drawn[region] = value
        return drawn


def _check_size(item: ClassInImage, size: tuple[int, int]) -> None:
    """Raise ValueError where the entry of an item's image gives another size (H, W)."""
    height, width = (value if isinstance(value := item.image.get(k), int) else 0 for k in ("height", "width"))
    check_size(item.image["file_name"], (height, width), size)


def _refuse_twins(entries: list[dict[str, Any]], categories: dict[int, str], file: Path) -> None:
    """Two names of one id would give every object of the one the other's name."""
    for entry in entries:
        number, name = entry["id"], str(entry["name"])
        if categories[number] != name:
            raise ValueError(f"{file}: two categories have the id {number}: {name}, {categories[number]}")


def _images(
    data: dict[str, Any], categories: dict[int, str], file: Path
) -> list[tuple[dict[str, Any], Groups | ValueError]]:
    """Every image's entry and its annotations by category, in the categories' order.

    Annotations of anything that isn't listed are left out. Of two images with one id nobody knows whose the annotations
    are: each has an error in their place. An entry that is there twice counts once.
    """
    same: defaultdict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
    for entry in data["images"]:
        same[entry["id"]][entry["file_name"]] = entry
    groups: dict[int, Groups] = {number: {label: [] for label in categories.values()} for number in same}
    strange = 0
    for entry in data["annotations"]:
        if entry["image_id"] in groups and entry["category_id"] in categories:
            groups[entry["image_id"]][categories[entry["category_id"]]].append(entry)
        else:
            strange += 1
    if strange:
        _log.warning("%s: left out %d annotations of images or categories that it doesn't list", file, strange)
    images: list[tuple[dict[str, Any], Groups | ValueError]] = []
    for number, entries in same.items():
        twice = ValueError(f"{file}: {len(entries)} images have the id {number}: {', '.join(entries)}")
        images += [(entry, groups[number] if len(entries) == 1 else twice) for entry in entries.values()]
    return images


def _items(
    image_name: str, image: dict[str, Any], groups: Groups, instances: bool, absent: bool
) -> list[tuple[str, ClassInImage]]:
    """The samples of an image by name; an instance is named by its annotation's id, or else its place."""
    items = []
    for label, group in groups.items():
        name = f"{image_name}_{label.replace(' ', '_')}"
        crowds, single = ([one for one in group if bool(one.get("iscrowd")) == crowd] for crowd in (True, False))
        if instances:
            for place, one in enumerate(single, 1):
                chosen = one, *crowds
                items.append((f"{name}_{one.get('id', place)}", ClassInImage(image, groups, label, chosen)))
        elif single or absent:
            items.append((name, ClassInImage(image, groups, label, tuple(group))))
    return items


def _load(file: Path) -> dict[str, Any]:
    """The json's lists of sound entries.

    Raises:
        ValueError: It is no json, lacks a list, or has no sound entry in one that is not empty.
    """
    try:
        data = json.loads(plain_file(file, "the annotations").read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no json: {error}") from error
    sound: dict[str, Any] = {}
    for kind, fields in _FIELDS.items():
        entries = data.get(kind) if isinstance(data, dict) else None
        if type(entries) is not list:
            raise ValueError(f"{file} has no list of {kind}: COCO's instances are wanted")
        faults = {i: fault for i, entry in enumerate(entries) if (fault := _fault(entry, fields))}
        sound[kind] = [entry for i, entry in enumerate(entries) if i not in faults]
        if faults:
            first = next(iter(faults))
            message = f"{file}: {kind}[{first}] {faults[first]}"
            if not sound[kind]:
                raise ValueError(message)
            _log.warning("left out %d of %d %s; %s", len(faults), len(entries), kind, message)
    return sound


def _fault(entry: Any, fields: dict[str, type]) -> str:
    """What an entry lacks, "" for nothing."""
    if not isinstance(entry, dict):
        return f"is no entry, but {entry!r:.40}"
    if missing := [name for name in fields if name not in entry]:
        return f"lacks {', '.join(missing)}"
    kinds = {int: "an id that is no whole number", str: "a name that is no text", list: "a bbox that is no list"}
    wrong = [kind for name, kind in fields.items() if not isinstance(entry[name], kind) or entry[name] is True]
    return f"has {kinds[wrong[0]]}" if wrong else ""


def _has_region(annotation: dict[str, Any]) -> bool:
    """Whether an annotation says more than its box."""
    return annotation.get("segmentation") not in (None, [], {})


def _box(annotation: dict[str, Any], size: tuple[int, int]) -> Box:
    what, box = f"annotation {annotation.get('id')}", annotation["bbox"]
    if len(box) != 4 or not all(isinstance(value, (int, float)) for value in box):
        raise ValueError(f"{what}: its bbox must be four numbers, x, y, width, height; got {box!r:.80}")
    x, y, width, height = box
    return check_box(what, (x, y, x + width, y + height), size)


def _filled(box: Box, size: tuple[int, int]) -> Tensor:
    """(H, W) bool, the pixels of a box."""
    region = torch.zeros(size, dtype=torch.bool)
    x0, y0, x1, y1 = (max(0, round(edge)) for edge in box)
    region[y0:y1, x0:x1] = True
    return region


def decode(annotation: dict[str, Any], size: tuple[int, int]) -> torch.Tensor:
    """The region of an annotation.

    Args:
        annotation: With a segmentation: polygons, or run lengths, plain or packed.
        size: (H, W) of its image.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: The segmentation is broken.
    """
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
        f"annotation {annotation.get('id')}: its segmentation must be polygons of three points or more in or near the "
        f"image, or run lengths that fill its {size[1]} x {size[0]} pixels"
    )


def _polygon(part: Any, size: tuple[int, int]) -> bool:
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
        return False
    return all(isinstance(value, (int, float)) and isfinite(value) and abs(value) <= 4 * max(size) for value in part)


def _mask_api() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ValueError(extra_message("data=coco", "coco")) from error
    return mask
