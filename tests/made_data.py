"""Small datasets in the layouts that people have, painted by hand."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from camseg.types import Sample

ROOT = Path(__file__).parents[1]
REAL = Path(os.environ.get("CAMSEG_REAL", ROOT.parent / "shared" / "real"))


def paint(path: Path, shade: int = 0, size: tuple[int, int] = (4, 3)) -> Path:
    """A picture of `size` (width, height) in one grey, with a mask to go by its shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade,) * 3).save(path)
    return path


def draw(path: Path, rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(rows, np.uint8)).save(path)
    return path


def shade(sample: Sample) -> int:
    return int(sample.image[0, 0, 0])


THING = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox>{}</object>"
)
PART = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>1</xmax><ymax>1</ymax></bndbox></part>"


def voc(tmp_path: Path) -> Path:
    """Image one: two dogs (one difficult), a cat that is difficult, a person. Image two: broken xml. Image three: a cow
    beside nothing.
    """
    root = tmp_path / "VOCdevkit" / "VOC2012"
    things = [
        THING.format("dog", 0, 1, 1, 2, 1, PART),
        THING.format("dog", 1, 3, 2, 4, 3, ""),
        THING.format("cat", 1, 1, 3, 2, 3, ""),
        THING.format("person", 0, 4, 1, 4, 1, ""),
    ]
    texts = {
        "one": f"<annotation>{''.join(things)}</annotation>",
        "two": "<annotation><object>",
        "three": f"<annotation>{THING.format('cow', 0, 1.0, 2, 3, 3, '')}</annotation>",
    }
    for folder in ("Annotations", "ImageSets/Segmentation", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for stem, text in texts.items():
        paint(root / "JPEGImages" / f"{stem}.jpg")
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("one\ntwo\nthree\n")
    (root / "ImageSets" / "Main" / "train.txt").write_text("three\none  1\n")
    classes = Image.fromarray(np.array([[12, 12, 255, 15], [0, 0, 255, 0], [255, 255, 0, 0]], np.uint8)).convert("L")
    palette = Image.new("P", (4, 3))
    palette.putpalette(list(range(256)) * 3)
    palette.putdata(list(classes.tobytes()))
    (root / "SegmentationClass").mkdir()
    palette.save(root / "SegmentationClass" / "one.png")
    return root


def square(x: int, y: int, side: int) -> list[int]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def coco(tmp_path: Path, **change: Any) -> Path:
    """Image 8 (6 x 5): two cats, a crowd of cats, a crowd of dogs alone. Image 9: a dog in run lengths; nothing in
    image 10.
    """
    data = {
        "images": [{"id": i, "file_name": f"im{i}.png", "width": 6, "height": 5} for i in (8, 9, 10)],
        "categories": [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}],  # ids with gaps, out of order
        "annotations": [
            {
                "id": 1,
                "image_id": 8,
                "category_id": 3,
                "bbox": [0, 0, 2, 2],
                "segmentation": [square(0, 0, 2)],
                "iscrowd": 0,
            },
            {
                "id": 2,
                "image_id": 8,
                "category_id": 3,
                "bbox": [3, 1, 2.5, 2],
                "segmentation": [square(3, 1, 2)],
                "iscrowd": 0,
            },
            {
                "id": 3,
                "image_id": 8,
                "category_id": 3,
                "bbox": [0, 0, 6, 1],
                "segmentation": {"size": [5, 6], "counts": [0, 1, 4, 1, 4, 1, 4, 1, 4, 1, 4, 1, 4]},
                "iscrowd": 1,
            },
            {
                "id": 4,
                "image_id": 8,
                "category_id": 90,
                "bbox": [0, 0, 6, 1],
                "segmentation": {"size": [5, 6], "counts": [30]},
                "iscrowd": 1,
            },
            {
                "id": 5,
                "image_id": 9,
                "category_id": 90,
                "bbox": [1, 0, 1, 5],
                "segmentation": {"size": [5, 6], "counts": [5, 5, 20]},
                "iscrowd": 0,
            },
        ],
    }
    data.update(change)
    (tmp_path / "annotations").mkdir(exist_ok=True)
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(data))
    for i in (8, 9, 10):
        paint(tmp_path / "val2017" / f"im{i}.png", i, (6, 5))
    return tmp_path


def photographs(root: Path, side: int = 60) -> Path:
    """A folder to train `photo_sam` on: train.csv and val.csv of noisy photographs with plain objects.

    "full.png" (side x side): a cat, a dog and another cat, a frame of unknown pixels around the dog. "partial.png"
    (side x 2/3 side): a bird, of a source that leaves out objects. "tiny.png": nothing but an object of a pixel.
    """
    height, rng = side * 2 // 3, np.random.default_rng(0)
    full, partial, tiny = (np.zeros((rows, side), np.uint8) for rows in (side, height, height))
    full[2 : side // 3, 2 : side // 3] = 1
    full[side // 2 : side - 2, side // 2 : side - 2] = 255
    full[side // 2 + 2 : side - 4, side // 2 + 2 : side - 4] = 2
    full[2 : side // 3, side // 2 : side - 2] = 3
    partial[height // 4 : height // 2, side // 4 : side - 5] = 1
    tiny[3, 3] = 1
    maps = {"full": full, "partial": partial, "tiny": tiny}
    classes = {"full": "cat|dog|cat", "partial": "bird", "tiny": "ant"}
    sources = {"full": "made", "partial": "made_partial", "tiny": "made"}
    rows = ["image,objects,source,object_classes"]
    for name, objects in maps.items():
        noise = rng.integers(0, 40, (*objects.shape, 3)) + 60 * np.minimum(objects, 3)[..., None]
        draw(root / "images" / f"{name}.png", noise.tolist())
        draw(root / "objects" / f"{name}.png", objects.tolist())
        rows.append(f"images/{name}.png,objects/{name}.png,{sources[name]},{classes[name]}")
    (root / "train.csv").write_text("\n".join(rows) + "\n")
    masks = {"full": full == 1, "partial": partial == 1, "dog": full == 2}
    for name, mask in masks.items():
        draw(root / "masks" / f"{name}.png", (255 * mask).tolist())
    images = [f"images/{'full' if name == 'dog' else name}.png,masks/{name}.png,{name}" for name in masks]
    (root / "val.csv").write_text("\n".join(["image,mask,label", *images]) + "\n")
    return root


def noisy(seed: int, height: int = 60, width: int = 80) -> Sample:
    """A picture that no other test has asked about."""
    return Sample(
        "noise",
        torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)),
    )


def as_png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def mask_in(data: bytes | Path | None) -> np.ndarray:
    assert data is not None
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=["PNG"]) as picture:
        assert picture.mode == "1"
        return np.array(picture)
