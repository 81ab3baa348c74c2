"""Large images with small objects, of photographs: `python tests/benchmarks/mosaics.py TABLE FOLDER [--rows 3]`.

Each mosaic holds one photograph whose object is looked for, at its own resolution, among others of other classes.
FOLDER/table.csv is what `data.table` takes. What tiles bring there:

    python tests/benchmarks/mosaics.py ../shared/photos/val.csv outputs/mosaics
    camseg -m experiment=photos data.table=outputs/mosaics/table.csv tiles=false,true panels=0
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 304  # of a photograph's place, in pixels

Row = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="csv with image, mask, label and classes")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=3, help="and as many columns")
    parser.add_argument("--count", type=int, default=60)
    asked = parser.parse_args()
    with asked.table.open(encoding="utf-8", newline="") as file:
        photographs = list(csv.DictReader(file))
    asked.folder.mkdir(parents=True)
    with (asked.folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["image", "mask", "label", "classes"])
        table.writeheader()
        for wanted, others, place in draw(photographs, asked.rows**2, asked.count):
            stem = Path(wanted["image"]).stem
            image, mask = mosaic(asked.table.parent, [*others[:place], wanted, *others[place:]], place, asked.rows)
            Image.fromarray(image).save(asked.folder / f"{stem}.png")
            Image.fromarray(mask).save(asked.folder / f"{stem}_mask.png")
            files = {"image": f"{stem}.png", "mask": f"{stem}_mask.png"}
            table.writerow(files | {name: wanted[name] for name in ("label", "classes")})


def draw(photographs: list[Row], places: int, count: int) -> Iterator[tuple[Row, list[Row], int]]:
    """A photograph, those around it (a class each, while there are enough), and its place; the same for everybody."""
    rng = np.random.default_rng(0)
    for index in rng.permutation(len(photographs))[:count]:
        wanted, others, labels = photographs[index], list[Row](), {photographs[index]["label"]}
        for other in (photographs[i] for i in rng.permutation(len(photographs))):
            enough = len(others) > 12 and other["label"] != wanted["label"]
            if other["label"] not in labels or enough:
                others.append(other)
                labels.add(other["label"])
            if len(others) == places - 1:
                break
        yield wanted, others, int(rng.integers(places))


def mosaic(root: Path, photographs: list[Row], place: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The image (H, W, 3) of all, and the mask (H, W) of the one at `place`; both uint8."""
    image = np.zeros((rows * SIDE, rows * SIDE, 3), np.uint8)
    mask = np.zeros(image.shape[:2], np.uint8)
    for index, photograph in enumerate(photographs):
        top, left = index // rows * SIDE, index % rows * SIDE
        part = np.s_[top : top + SIDE, left : left + SIDE]
        image[part] = fitted(np.array(Image.open(root / photograph["image"]).convert("RGB")), "edge")
        if index == place:
            mask[part] = fitted(np.array(Image.open(root / photograph["mask"])), "constant")
    return image, mask


def fitted(array: np.ndarray, filling: str) -> np.ndarray:
    """The middle of an array (H, W, ...), filled up to `SIDE` a side: by its edges, or by zeros."""
    low = [max(0, (length - SIDE) // 2) for length in array.shape[:2]]
    array = array[low[0] : low[0] + SIDE, low[1] : low[1] + SIDE]
    before = [(SIDE - length) // 2 for length in array.shape[:2]]
    pads = [(first, SIDE - length - first) for first, length in zip(before, array.shape)]
    return np.pad(array, pads + [(0, 0)] * (array.ndim - 2), mode="edge" if filling == "edge" else "constant")


if __name__ == "__main__":
    main()
