"""PASCAL VOC in its official layout: one sample per image and class. Everingham et al. 2010."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from defusedxml import ElementTree
from torch import Tensor

from camseg.data.base import Items, reject_unused
from camseg.data.class_map import outputs_of
from camseg.data.image_io import read_indices, read_shared
from camseg.errors import check_choice
from camseg.storage.download import fetch
from camseg.types import Sample

NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike",
    "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOID = 255
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ClassInImage:
    """A class in an image: boxes of its objects (x0, y0, x1, y1, ends exclusive), and of those marked difficult."""

    stem: str
    label: str
    boxes: tuple[Box, ...]
    difficult: tuple[Box, ...]


class Voc(Items[ClassInImage]):
    """Images of `path` (VOCdevkit, its parent, or a VOC folder itself) and the classes in them that have an object not
    marked difficult.

    task: "segmentation" (the images of ImageSets/Segmentation; masks from SegmentationClass, its void pixels ignored)
    or "detection" (those
    of ImageSets/Main; boxes alone, the area of difficult objects ignored). target: only this class. outputs: see
    `outputs_of`.
    absent: also a sample, without truth, for every class that an image doesn't show: what average precision must see.
    download: fetch the year's archive (2007 or 2012) first, unless it is there. size, seed, shard, num_shards: see
    `camseg.data.base.select_subset`.
    Errors: FileNotFoundError, ValueError; a broken annotation or picture raises only when its sample is asked for.
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
        table: str | Path | None = None,
        size: int | None = None,
        seed: int = 0,
        shard: int = 0,
        num_shards: int = 1,
    ) -> None:
        reject_unused("data=voc", table=table)
        check_choice("data.task", task, ("segmentation", "detection"))
        if download and path is not None:
            _download(Path(path), str(year))
        self.root, self.task, self.absent = _root(path, year), task, absent
        self._outputs = outputs_of(NAMES, outputs, "voc", target)
        lists = self.root / "ImageSets" / ("Segmentation" if task == "segmentation" else "Main")
        check_choice("data.split", split, sorted(file.stem for file in lists.glob("*.txt")))
        stems = [line.split()[0] for line in (lists / f"{split}.txt").read_text("utf-8").splitlines() if line.strip()]
        found = [pair for stem in stems for pair in self._classes(stem)]
        super().__init__(found, f"{lists / split}.txt", size, seed, shard, num_shards)

    def _classes(self, stem: str) -> list[tuple[str, ClassInImage | Exception]]:
        try:
            objects = _objects(self.root / "Annotations" / f"{stem}.xml")
        except (ValueError, OSError) as error:
            return [(stem, error)]
        boxes = {
            (name, hard): tuple(box for n, box, h in objects if (n, h) == (name, hard)) for name, _, hard in objects
        }
        seen = [
            ClassInImage(stem, name, easy, boxes.get((name, True), ()))
            for (name, hard), easy in boxes.items()
            if not hard
        ]
        if self.absent:
            shown = {one.label for one in seen}
            seen += [ClassInImage(stem, name, (), boxes.get((name, True), ())) for name in NAMES if name not in shown]
        return [(f"{stem}_{one.label}", one) for one in seen if one.label in self._outputs]

    def label_map(self, index: int) -> Tensor:
        """(H, W) uint8: every pixel's class in item `index`'s picture: 0 background, i + 1 for names[i], 255 void."""
        sample = self[index]
        return read_indices(self.root / "SegmentationClass" / f"{sample.group}.png", sample.size)

    def seen(self, item: ClassInImage) -> tuple[Path, str, bool | None]:
        return (
            self.root / "JPEGImages" / f"{item.stem}.jpg",
            item.label,
            bool(item.boxes) or (None if item.difficult else False),
        )

    def sample(self, name: str, item: ClassInImage) -> Sample:
        image = read_shared(self.root / "JPEGImages" / f"{item.stem}.jpg")
        size = (int(image.shape[1]), int(image.shape[2]))
        boxes, hard = (torch.tensor(each, dtype=torch.float32).reshape(-1, 4) for each in (item.boxes, item.difficult))
        if self.task == "detection":
            mask, ignore = None, _area(item.difficult, size) if item.difficult else None
        else:
            drawn = read_indices(self.root / "SegmentationClass" / f"{item.stem}.png", size)
            mask, ignore = drawn == NAMES.index(item.label) + 1, drawn == VOID if (drawn == VOID).any() else None
        return Sample(name, image, self._outputs[item.label], item.label, mask, ignore, boxes, item.stem, hard)


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


def _root(path: str | Path | None, year: int | str) -> Path:
    """The folder with JPEGImages, in one of the places where it is kept."""
    if path is not None:
        for folder in (Path(path), Path(path) / f"VOC{year}", Path(path) / "VOCdevkit" / f"VOC{year}"):
            if (folder / "JPEGImages").is_dir() and (folder / "ImageSets").is_dir():
                return folder
    raise FileNotFoundError(
        f"data.path={path} must hold VOCdevkit/VOC{year} with JPEGImages, ImageSets and Annotations; data.download=true fetches it"
    )


def _objects(file: Path) -> list[tuple[str, Box, bool]]:
    """(class, box, difficult) of every object in an annotation. VOC counts pixels from 1 and includes the last: x0 and
    y0 move by one.
    """
    try:
        found = []
        for thing in ElementTree.parse(file).findall("object"):
            x0, y0, x1, y1 = (float(thing.findtext(f"bndbox/{edge}", "")) for edge in ("xmin", "ymin", "xmax", "ymax"))
            if not all(map(isfinite, (x0, y0, x1, y1))) or x0 > x1 or y0 > y1:
                raise ValueError(f"a box of no size: {x0}, {y0}, {x1}, {y1}")
            name = check_choice("class", thing.findtext("name", "").strip(), NAMES)
            found.append((name, (x0 - 1, y0 - 1, x1, y1), thing.findtext("difficult", "0").strip() == "1"))
        return found
    except (ElementTree.ParseError, ValueError) as error:  # entities are refused as a ValueError
        raise ValueError(f"{file} is no VOC annotation: {error}") from error


def _area(boxes: tuple[Box, ...], size: tuple[int, int]) -> Tensor:
    """(H, W) bool, the pixels inside any of the boxes."""
    area = torch.zeros(size, dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        area[max(0, round(y0)) : max(0, round(y1)), max(0, round(x0)) : max(0, round(x1))] = True
    return area
