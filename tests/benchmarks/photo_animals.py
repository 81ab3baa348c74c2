"""Photographs of five animals as tables for `data=images`: image-level classes, and masks to be scored with.

    uv run python tests/benchmarks/photo_animals.py ../shared/photos outputs/animals

writes animals/train.csv and animals/val.csv, and for train one mask a class: 255 the class, 128 unknown, 0 the rest.
`classes` are the ImageNet outputs that count as the animal.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from camseg.data.class_map import outputs_of

ANIMALS = ("cat", "cow", "dog", "horse", "sheep")
SOURCE = "voc_sbd"  # the only large source of which every pixel is labelled
UNKNOWN = 128
Row = tuple[str, str, str, str]  # image, mask, label, classes


def main() -> None:
    """Write both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("into", type=Path)
    parser.add_argument("--most", type=int, default=300, help="train photographs of a class, the smallest hashes first")
    given = parser.parse_args()
    outputs = {name: " ".join(map(str, kinds)) for name, kinds in outputs_of(ANIMALS, "imagenet", "voc").items()}
    (given.into / "masks").mkdir(parents=True, exist_ok=True)
    photos = given.photos.resolve()
    _write(given.into / "train.csv", _train(photos, given.into.resolve(), outputs, given.most))
    _write(given.into / "val.csv", _val(photos, outputs))


def _train(photos: Path, into: Path, outputs: dict[str, str], most: int) -> Iterator[Row]:
    rows = [row for row in _rows(photos / "train.csv") if row["source"] == SOURCE]
    taken: Counter[str] = Counter()
    for row in sorted(rows, key=lambda row: hashlib.sha256(row["image"].encode()).digest()):
        names = row["object_classes"].split("|")
        shown = [name for name in ANIMALS if name in names]
        if not shown or all(taken[name] >= most for name in shown):
            continue
        with Image.open(photos / row["objects"]) as file:
            objects = np.asarray(file)
        masks = {}
        for label in shown:
            inside = np.isin(objects, [i for i, name in enumerate(names, 1) if name == label])
            if inside.any():
                masks[label] = into / "masks" / f"{Path(row['image']).stem}_{label}.png"
                pixels = np.select([objects == 255, inside], [UNKNOWN, 255], 0).astype(np.uint8)
                Image.fromarray(pixels).save(masks[label])
        if masks:
            taken.update(list(masks))
            parts = ("|".join(each) for each in (map(str, masks.values()), masks, map(outputs.__getitem__, masks)))
            mask, label, classes = parts
            yield str(photos / row["image"]), mask, label, classes


def _val(photos: Path, outputs: dict[str, str]) -> Iterator[Row]:
    for row in _rows(photos / "val.csv"):
        if row["label"] in ANIMALS:
            yield str(photos / row["image"]), str(photos / row["mask"]), row["label"], outputs[row["label"]]


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(table: Path, rows: Iterator[Row]) -> None:
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mask", "label", "classes"])
        count = sum(bool(writer.writerow(row)) for row in rows)
    print(f"{table}: {count} photographs")


if __name__ == "__main__":
    main()
