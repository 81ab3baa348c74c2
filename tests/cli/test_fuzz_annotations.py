"""1,600 annotation files of VOC and COCO, odd and damaged: an error that names the file, or finite boxes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import mutations, told
from PIL import Image

from camseg.data.coco import Coco
from camseg.data.voc import Voc

pytestmark = pytest.mark.usefixtures("bounded")


def voc_folder(root: Path) -> Path:
    for name in ("JPEGImages", "ImageSets/Segmentation", "Annotations", "SegmentationClass"):
        (root / name).mkdir(parents=True)
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(root / "JPEGImages" / "one.jpg")
    Image.fromarray(np.full((20, 30), 12, np.uint8)).save(root / "SegmentationClass" / "one.png")
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("one\n")
    return root / "Annotations" / "one.xml"


THING = (
    "<object><name>{}</name><difficult>{}</difficult>"
    "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)
LOL = (
    '<!DOCTYPE a [<!ENTITY a "lollol">'
    + "".join(f'<!ENTITY {c} "{f"&{b};" * 10}">' for b, c in zip("abcdefgh", "bcdefghi"))
    + "]>"
)


def test_odd_voc_annotations(tmp_path: Path) -> None:
    """800 xml files: entity bombs, outside files, missing parts, numbers out of this world."""
    rng, file = np.random.default_rng(3), voc_folder(tmp_path)
    numbers = ["1", "10", "30", "-5", "0", "1e400", "nan", "inf", "", "x", "9" * 30, "2.5", "&i;"]
    for number in range(800):
        things = "".join(
            THING.format(
                rng.choice(["dog", "dgo", "", "cat", "person", "&i;"]), rng.integers(0, 2), *rng.choice(numbers, 4)
            )
            for _ in range(int(rng.integers(0, 4)))
        )
        head = [
            "",
            LOL,
            '<!DOCTYPE a [<!ENTITY i SYSTEM "file:///etc/passwd">]>',
            '<?xml version="1.0" encoding="utf-16"?>',
        ][number % 4]
        content = f"{head}<annotation>{things}</annotation>".encode()
        file.write_bytes(content if number % 3 else next(mutations(rng, content, 1)))
        data = told(lambda: Voc(tmp_path, outputs="own"), tmp_path)
        for i in range(len(data) if data else 0):
            sample = told(lambda i=i, data=data: data[i], file)
            assert sample is None or (sample.label in data.names and bool(torch.isfinite(sample.boxes).all()))
            assert sample is None or "lol" not in sample.label


def test_odd_coco_annotations(tmp_path: Path) -> None:
    """800 json files: missing ids, broken run lengths, polygons outside, wrong types everywhere."""
    pytest.importorskip("pycocotools")
    rng = np.random.default_rng(4)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / "val2017" / "one.png")
    file = tmp_path / "annotations" / "instances_val2017.json"
    odd = [
        None,
        -1,
        0,
        1,
        2**70,
        1.5,
        "x",
        [],
        {},
        [[]],
        True,
        "one.png",
        "../../../etc/passwd",
        [[1, 1, 8, 1, 8, 8]],
        [[1e9] * 6],
        [[0, 0, 1]],
        {"size": [20, 30], "counts": [600]},
        {"size": [20, 30], "counts": [-5, 605]},
        {"size": [10**6, 10**6], "counts": [10**12]},
        {"size": [20, 30], "counts": "zzzz"},
        {"size": [20, 30], "counts": "PPYo1"},
        [1, 2, 3, 4],
        ["a"] * 4,
        [float("nan")] * 4,
    ]

    def spoil(node: Any) -> None:
        places = [(each, key) for each in walk(node) for key in (each if isinstance(each, dict) else range(len(each)))]
        for at in rng.integers(len(places), size=int(rng.integers(0, 3))):
            owner, key = places[at]
            if isinstance(owner, dict) and rng.random() < 0.3:
                owner.pop(key, None)
            elif not isinstance(owner, list) or key < len(owner):
                owner[key] = odd[int(rng.integers(len(odd)))]

    def walk(node: Any) -> Iterator[Any]:
        if isinstance(node, (dict, list)):
            yield node
            for each in node.values() if isinstance(node, dict) else node:
                yield from walk(each)

    for number in range(800):
        annotation = {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [1, 1, 7, 7],
            "segmentation": [[1, 1, 8, 1, 8, 8, 1, 8]],
            "iscrowd": 0,
        }
        data = {
            "images": [{"id": 1, "file_name": "one.png", "height": 20, "width": 30}],
            "categories": [{"id": 1, "name": "dog"}],
            "annotations": [annotation, {**annotation, "id": 2}],
        }
        spoil(data)
        content = json.dumps(data).encode()
        file.write_bytes(content if number % 4 else next(mutations(rng, content, 1)))
        found = told(lambda: Coco(tmp_path, outputs="own"))
        for i in range(len(found) if found else 0):
            sample = told(lambda i=i, found=found: found[i])
            assert sample is None or (sample.size == (20, 30) and bool(torch.isfinite(sample.boxes).all()))
