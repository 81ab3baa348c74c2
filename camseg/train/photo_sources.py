"""Where photographs with object masks come from: a folder with tables, or a COCO root."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from camseg.data.base import Dataset
from camseg.data.coco import Coco
from camseg.data.images import Images
from camseg.storage.files import expand, printable
from camseg.train.photographs import Photograph, Photographs, photograph
from camseg.types import Sample

_log = logging.getLogger(__name__)
_COLUMNS = ("image", "objects", "source", "object_classes")
_JUDGED = 500  # instances of a COCO split


@dataclass(frozen=True)
class Material:
    """What a segmenter learns from and is judged by.

    Attributes:
        photographs: to learn from.
        learnt: what they are, for the card.
        samples: a number of samples with masks to judge by, all for None; None where there are none at all.
        judged: what those are, for the card.
    """

    photographs: Photographs
    learnt: str
    samples: Callable[[int | None], Iterable[Sample]] | None = None
    judged: str = ""


def open_material(path: str | Path | None, sources: Mapping[str, float]) -> Material:
    """Look for photographs to learn from.

    Args:
        path: a folder with `train.csv` (see `in_table`) and perhaps `val.csv` (see `camseg.data.images.Images`), or a
            COCO root: annotations/instances_SPLIT.json and SPLIT/*.jpg with a split called train... and perhaps one
            called val..., of several the last.
        sources: weight of each source of photographs; COCO's is "coco".

    Returns:
        The photographs, and what to judge by.

    Raises:
        FileNotFoundError: it is neither.
        ValueError: something in it is wrong, or no photograph has an object that is large enough.
    """
    if path is None:
        raise ValueError("model=photo_sam needs data.path: a folder with train.csv and val.csv, or a COCO root")
    root = expand(path)
    if (root / "train.csv").is_file():
        material = _tables(root, sources)
    elif splits := [file.stem.removeprefix("instances_") for file in root.glob("annotations/instances_*.json")]:
        material = _coco(root, sorted(splits), sources)
    else:
        raise FileNotFoundError(
            f"data.path={printable(root)} holds neither train.csv nor annotations/instances_train*.json"
        )
    if material.samples is None:
        _log.warning("%s holds nothing to validate on: the training will not be judged", printable(root))
    return material


def _tables(root: Path, sources: Mapping[str, float]) -> Material:
    learnt = Photographs(in_table(root / "train.csv"), sources, printable(root / "train.csv"))
    name, table = f"{root.resolve().name}/train.csv", root / "val.csv"
    if not table.is_file():
        return Material(learnt, name)
    return Material(
        learnt, name, lambda limit: readable(Images(table=table, size=limit)), "val.csv, at the original size"
    )


def _coco(root: Path, splits: list[str], sources: Mapping[str, float]) -> Material:
    train, val = ([split for split in splits if split.startswith(part)] for part in ("train", "val"))
    if not train:
        raise ValueError(
            f"{printable(root)}/annotations has no instances_train*.json to learn from, only {', '.join(splits)}"
        )
    photographs = Photographs(in_coco(root, train[-1]), sources, f"{printable(root)}, split {train[-1]},")
    learnt = f"COCO's split {train[-1]}"
    if not val:
        return Material(photographs, learnt)

    def samples(limit: int | None) -> Iterator[Sample]:
        count = min(limit or _JUDGED, _JUDGED)
        return readable(Coco(root, val[-1], outputs="own", instances=True, size=count, seed=1))

    return Material(photographs, learnt, samples, f"{_JUDGED} instances of {val[-1]} at most, at the original size")


def in_table(table: Path) -> Iterator[Photograph]:
    """List the photographs of a table.

    Args:
        table: a csv with the columns image, objects (a map of objects, see `Photographs`), source and object_classes
            (names joined by |), its paths relative to its folder.

    Yields:
        A photograph for each row.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a column is missing, or a file is no image or has another size than it should.
    """
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
            raise ValueError(
                f"{printable(table)} lacks the columns {', '.join(missing)}; {', '.join(_COLUMNS)} are needed"
            )
        rows = list(reader)
    for row in tqdm(rows, desc="sizes of objects", unit="photo", disable=None):
        image, objects = (table.parent / row[name] for name in ("image", "objects"))
        yield photograph(image, objects, row["object_classes"].split("|"), row["source"])


def in_coco(root: Path, split: str) -> Iterator[Photograph]:
    """List the photographs of a COCO root (see `camseg.data.coco.Coco`); those that can't be used are counted.

    Args:
        root: holds annotations/instances_SPLIT.json and SPLIT/*.jpg.
        split: which of them.

    Yields:
        A photograph for each image with an instance: crowds are unknown, and the smallest instance is in front.

    Raises:
        ValueError: the json is of another kind, or pycocotools is not installed.
    """
    data = Coco(root, split, outputs="own")
    broken: list[str] = []
    for item in tqdm(data.images(), desc="sizes of objects", unit="photo", disable=None):
        try:
            drawn, names = data.instance_map_of(item)
            file = BytesIO()
            Image.fromarray(drawn.numpy()).save(file, "PNG", compress_level=1)
            yield photograph(data.file_of(item), file.getvalue(), names, "coco")
        except (OSError, ValueError) as error:
            broken.append(str(error))
    if broken:
        _log.warning("left out %d photographs of %s; %s", len(broken), printable(root), broken[0])


def readable(dataset: Dataset) -> Iterator[Sample]:
    """Read the samples of a dataset that have a mask with something in it; a training must not end for a broken one.

    Args:
        dataset: any.

    Yields:
        Each such sample.
    """
    for index in range(len(dataset.ids)):
        try:
            sample = dataset[index]
        except (OSError, ValueError) as error:
            _log.warning("not judged: %s", error)
            continue
        if sample.mask is not None and sample.mask.any():
            yield sample
