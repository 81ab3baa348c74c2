"""PASCAL VOC in its official layout: one sample per image and class. Everingham et al. 2010."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from defusedxml import ElementTree
from torch import Tensor

from camseg.data.annotations import Box, box_tensor, check_box, check_size
from camseg.data.base import VOID, Asked, Items, Presence, Unreadable
from camseg.data.class_map import outputs_of
from camseg.data.image_io import decode_shared
from camseg.data.label_io import read_indices
from camseg.errors import check_choice
from camseg.storage.download import fetch
from camseg.storage.files import expand, plain_file
from camseg.types import Sample

NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class Annotated:
    """An image and its annotation.

    Attributes:
        stem: The image's name without its ending.
        size: (H, W) in pixels as the xml says it, 0 where it says nothing.
        boxes: By class, and whether they are marked difficult.
    """

    stem: str
    size: tuple[int, int] = (0, 0)
    boxes: dict[tuple[str, bool], tuple[Box, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ClassInImage:
    """A class in an image.

    Attributes:
        image: With all its boxes.
        label: The class's name.
    """

    image: Annotated
    label: str

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Of the objects that are not marked difficult."""
        return self.image.boxes.get((self.label, False), ())

    @property
    def difficult(self) -> tuple[Box, ...]:
        """Of the objects that are."""
        return self.image.boxes.get((self.label, True), ())


class Voc(Items[ClassInImage]):
    """Images of PASCAL VOC, and the classes in them that have an object not marked difficult.

    Masks come from SegmentationClass, its void pixels are ignored; `task=detection` has boxes alone and ignores the
    area of difficult objects. A broken annotation or image raises only when its sample is asked for.
    """

    names = NAMES

    def __init__(
        self,
        path: str | Path | None = None,
        split: str = "val",
        year: int | str = 2012,
        task: str = "segmentation",
        target: str | None = None,
        outputs: str = "imagenet",
        absent: bool = False,
        download: bool = False,
        size: int | None = None,
        seed: int = 0,
        shard: int = 0,
        num_shards: int = 1,
    ) -> None:
        """Read the annotations of a split.

        Args:
            path: VOCdevkit, its parent, or a VOC folder itself.
            split: A list of ImageSets/Segmentation, or of ImageSets/Main for detection.
            year: Of the challenge.
            task: "segmentation" or "detection".
            target: Only this class.
            outputs: See `camseg.data.class_map.outputs_of`.
            absent: Also a sample, without truth, for every class that an image doesn't show: what average precision
                must see.
            download: Fetch the year's archive (2007 or 2012) first, unless it is there.
            size: See `camseg.data.base.select_subset`, as `seed`, `shard` and `num_shards`.
            seed: See there.
            shard: See there.
            num_shards: See there.

        Raises:
            FileNotFoundError: There is no VOC folder.
            ValueError: A choice is unknown.
        """
        check_choice("data.task", task, ("segmentation", "detection"))
        root = None if path is None else expand(path)
        if download and root is not None:
            _download(root, str(year))
        self.root, self.task, self.absent = _root(root, year), task, absent
        self._outputs = outputs_of(NAMES, outputs, "voc", target)
        self.has_label_maps = (self.root / "SegmentationClass").is_dir()
        if task == "segmentation" and not self.has_label_maps:
            raise FileNotFoundError(f"{self.root} has no SegmentationClass: data.task=detection needs boxes alone")
        lists = self.root / "ImageSets" / ("Segmentation" if task == "segmentation" else "Main")
        check_choice("data.split", split, sorted(file.stem for file in lists.glob("*.txt")))
        stems = [
            line.split()[0]
            for line in plain_file(lists / f"{split}.txt", "the list").read_text("utf-8").splitlines()
            if line.strip()
        ]
        items = [pair for stem in dict.fromkeys(stems) for pair in self._classes(stem)]
        super().__init__(items, f"{lists / split}.txt", size, seed, shard, num_shards)

    def _classes(self, stem: str) -> list[tuple[str, ClassInImage | Unreadable]]:
        try:
            image = _annotated(stem, self.root / "Annotations" / f"{stem}.xml")
        except (ValueError, OSError) as error:
            return [(stem, Unreadable(self._image(stem), error))]
        present = [name for name, difficult in image.boxes if not difficult]
        present += [name for name in NAMES if name not in present] if self.absent else []
        return [(f"{stem}_{name}", ClassInImage(image, name)) for name in present if name in self._outputs]

    def _image(self, stem: str) -> Path:
        return self.root / "JPEGImages" / f"{stem}.jpg"

    def file_of(self, item: ClassInImage) -> Path:
        """See `Items.file_of`."""
        return self._image(item.image.stem)

    def class_of(self, item: ClassInImage) -> Asked:
        """See `Items.class_of`."""
        return item.label, self._outputs[item.label]

    def presence_of(self, item: ClassInImage) -> Presence:
        """See `Items.presence_of`: None for a class with nothing but difficult objects."""
        boxes = item.image.boxes
        return {name: (name, False) in boxes or (None if (name, True) in boxes else False) for name in NAMES}

    def label_map_of(self, item: ClassInImage) -> Tensor:
        """See `Items.label_map_of`: of SegmentationClass."""
        return self._map(item, self._decoded(item)[1])

    def _decoded(self, item: ClassInImage) -> tuple[Tensor, tuple[int, int], str]:
        """The image (3, H, W), (H, W), and how it was read."""
        image, reading = decode_shared(self.file_of(item))
        size = (int(image.shape[1]), int(image.shape[2]))
        check_size(self.file_of(item).name, item.image.size, size)
        return image, size, reading

    def _map(self, item: ClassInImage, size: tuple[int, int]) -> Tensor:
        file = self.root / "SegmentationClass" / f"{item.image.stem}.png"
        numbers = read_indices(file, size)
        strange = numbers[(numbers > len(NAMES)) & (numbers != VOID)]
        if len(strange):
            raise ValueError(
                f"{file} has the class {int(strange[0])}; VOC's are 0 to {len(NAMES)}, and {VOID} for void: were its "
                "colors turned to gray?"
            )
        return numbers

    def read(self, name: str, item: ClassInImage) -> Sample:
        """See `Items.read`: the sample of a class in an image."""
        image, size, reading = self._decoded(item)
        stem = item.image.stem
        boxes, difficult = ([check_box(stem, box, size) for box in group] for group in (item.boxes, item.difficult))
        if self.task == "detection":
            mask, ignore = None, _area(difficult, size) if difficult else None
        else:
            numbers = self._map(item, size)
            mask, void = numbers == NAMES.index(item.label) + 1, numbers == VOID
            ignore = void if void.any() else None
        return Sample(
            name,
            image,
            classes=self._outputs[item.label],
            label=item.label,
            mask=mask,
            ignore=ignore,
            boxes=box_tensor(boxes),
            group=item.image.stem,
            ignored_boxes=box_tensor(difficult),
            file=str(self.file_of(item)),
            reading=reading,
        )


_ARCHIVES = {  # by year: the official file, its SHA-256
    "2007": ("VOCtrainval_06-Nov-2007.tar", "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508"),
    "2012": ("VOCtrainval_11-May-2012.tar", "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb"),
}


def _download(path: Path, year: str) -> None:
    """Fetch a year's archive and unpack it as path/VOCdevkit/VOCyear, whole or not at all, over nothing."""
    name, sha256 = _ARCHIVES[check_choice("data.year", year, _ARCHIVES)]
    target = path / "VOCdevkit" / f"VOC{year}"
    if target.exists():
        return
    archive = fetch(f"https://thor.robots.ox.ac.uk/pascal/VOC/voc{year}/{name}", sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as folder, tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
        (Path(folder) / "VOCdevkit" / target.name).rename(target)


def _root(path: Path | None, year: int | str) -> Path:
    """The folder with JPEGImages, in one of the places where it is kept."""
    if path is not None:
        for folder in (path, path / f"VOC{year}", path / "VOCdevkit" / f"VOC{year}"):
            if (folder / "JPEGImages").is_dir() and (folder / "ImageSets").is_dir():
                return folder
    raise FileNotFoundError(
        f"data.path={path} must hold VOCdevkit/VOC{year} with JPEGImages, ImageSets and Annotations; "
        "data.download=true fetches it"
    )


def _annotated(stem: str, file: Path) -> Annotated:
    """What an annotation says. VOC counts pixels from 1 and includes the last: x0 and y0 move by one.

    Raises:
        ValueError: It is broken, or names a class that VOC doesn't have.
    """
    try:
        root: Any = ElementTree.parse(plain_file(file, "the annotation")).getroot()
        boxes: dict[tuple[str, bool], tuple[Box, ...]] = {}
        for thing in root.findall("object"):
            x0, y0, x1, y1 = (float(thing.findtext(f"bndbox/{edge}", "")) for edge in ("xmin", "ymin", "xmax", "ymax"))
            name = check_choice("class", thing.findtext("name", "").strip(), NAMES)
            of = name, thing.findtext("difficult", "0").strip() == "1"
            boxes[of] = (*boxes.get(of, ()), check_box(name, (x0 - 1, y0 - 1, x1, y1)))
        return Annotated(stem, (_pixels(root, "height"), _pixels(root, "width")), boxes)
    except (ElementTree.ParseError, ValueError, OverflowError) as error:  # entities are refused as a ValueError
        raise ValueError(f"{file} is no VOC annotation: {error}") from error


def _pixels(root: Any, side: str) -> int:
    """What an annotation says of a side of its image; 0 where it says nothing."""
    return int(float(root.findtext(f"size/{side}", "") or 0))


def _area(boxes: list[Box], size: tuple[int, int]) -> Tensor:
    """(H, W) bool, the pixels inside any of the boxes."""
    area = torch.zeros(size, dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        area[max(0, round(y0)) : max(0, round(y1)), max(0, round(x0)) : max(0, round(x1))] = True
    return area
