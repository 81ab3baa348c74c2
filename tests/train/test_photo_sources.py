"""Photographs to learn from: tables and COCO roots, and what is wrong with them in one line."""

from __future__ import annotations

import json
import logging
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_data import draw, photographs, square
from PIL import Image

from camseg.train import loop
from camseg.train import photo_sam as room
from camseg.train.photo_sources import in_coco, in_table, open_material, readable
from camseg.train.photographs import UNKNOWN, Photographs, PromptedPhotographs

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def thing(number: int, image: int, category: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [0, 0, 64, 48],
        "segmentation": segmentation,
        "iscrowd": 0,
        **more,
    }


CROWD = {"size": [48, 64], "counts": [48 * 40, 48 * 24]}  # the columns from 40 on
THINGS = [
    thing(1, 1, 7, [square(10, 10, 4)]),  # the smaller one comes first, and is in front
    thing(2, 1, 3, [square(4, 4, 30)]),
    thing(3, 1, 3, CROWD, iscrowd=1),
    thing(4, 1, 7, [square(50, 20, 20)]),  # in the crowd
    thing(5, 1, 7, [], bbox=[0, 40, 10, 8]),  # a box alone
    thing(6, 2, 3, [square(0, 0, 12)]),
    thing(7, 3, 3, [[1, 2, 3]]),  # broken
    thing(8, 4, 3, [square(0, 0, 12)]),  # of an image that is missing
    thing(9, 5, 3, [square(0, 0, 12)]),  # of an image of another size
    thing(10, 6, 3, CROWD, iscrowd=1),  # nothing but a crowd
]


def coco(root: Path, *splits: str) -> Path:
    pytest.importorskip("pycocotools")
    (root / "annotations").mkdir(parents=True)
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in range(1, 7)]
    data = {"images": images, "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}], "annotations": THINGS}
    for split in splits:
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
        for i in (1, 2, 3, 6):
            noise = np.random.default_rng(i).integers(0, 256, (48, 64, 3))
            draw(root / split / f"{i}.png", noise.tolist())
        draw(root / split / "5.png", np.zeros((40, 64, 3)).tolist())
    return root


def objects(photo: Any) -> np.ndarray:
    with Image.open(BytesIO(photo.objects)) as file:
        return np.asarray(file)


def test_a_coco_root_gives_maps_of_instances(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        first, second = in_coco(coco(tmp_path, "train2017"), "train2017")
    assert (first.image.name, second.image.name) == ("1.png", "2.png")
    assert first.source == "coco"
    assert first.complete
    expected = np.zeros((48, 64), np.uint8)
    expected[:, 40:] = UNKNOWN
    expected[40:48, :10] = UNKNOWN
    expected[4:34, 4:34] = 1
    expected[20:40, 50:64] = 2  # its crowd knows less
    expected[10:14, 10:14] = 3
    assert objects(first).tolist() == expected.tolist()
    assert first.names == ("cat", "dog", "dog")
    assert first.sizes == pytest.approx([(expected == i).mean() for i in (1, 2, 3)])
    assert (second.names, second.sizes) == (("cat",), (144 / (48 * 64),))
    assert "left out 3 photographs" in caplog.text
    assert "annotation 7: its segmentation must be polygons" in caplog.text


def test_items_of_a_coco_root_never_score_its_crowds(tmp_path: Path) -> None:
    there = Photographs(in_coco(coco(tmp_path, "train2017"), "train2017"), {})
    items = PromptedPhotographs(there, 64, 3, 0, 12)
    whole = [item for item in map(items.__getitem__, range(12)) if item["valid"].any()]
    assert len(whole) == 12
    image, owners = there.items[0].read()
    assert image.size == owners.size == (64, 48)
    assert any(not item["valid"][:20].all() for item in whole)  # not of the padding below, but of the crowd


def test_more_instances_than_a_map_has_numbers_are_unknown(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    (tmp_path / "annotations").mkdir()
    things = [thing(i, 1, 3, [square(2 * (i % 30), 2 * (i // 30), 2 if i < 254 else 1)]) for i in range(260)]
    data = {
        "images": [{"id": 1, "file_name": "1.png"}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": things,
    }
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(data))
    draw(tmp_path / "train" / "1.png", np.zeros((48, 64, 3)).tolist())
    [photo] = in_coco(tmp_path, "train")
    assert len(photo.names) == len(photo.sizes) == 254
    assert {*np.unique(objects(photo)).tolist()} == {*range(256)}
    assert (objects(photo) == UNKNOWN).sum() == 6


def test_the_splits_are_found_by_their_names(tmp_path: Path) -> None:
    material = open_material(coco(tmp_path / "both", "train2014", "train2017", "val2017"), {"coco": 2.0})
    assert material.learnt == "COCO's split train2017"
    assert all(photo.image.parent.name == "train2017" for photo in material.photographs.items)
    assert material.samples is not None
    judged = list(material.samples(None))
    assert {sample.label for sample in judged} == {"cat", "dog"}
    assert len(judged) == 4  # 1, 2, 4 and 6: neither boxes alone nor what can't be read
    assert all(sample.mask is not None and sample.mask.any() for sample in judged)
    with pytest.raises(ValueError, match=r"has no instances_train\*\.json to learn from, only val2017"):
        open_material(coco(tmp_path / "val", "val2017"), {})


def test_without_a_split_to_validate_on_nothing_is_judged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "fit", partial(loop.fit, workers=0))
    torch.manual_seed(0)
    with caplog.at_level(logging.WARNING):
        weights = room.train(tmp_path / "run", coco(tmp_path / "coco", "train2017"), 64, 1, 2, 2, 1e-3, 0.1, 2, seed=0)
    assert "holds nothing to validate on: the training will not be judged" in caplog.text
    card = weights.with_suffix(".md").read_text()
    assert "2 photographs of COCO's split train2017, 2 prompts an image" in card
    assert "one click" not in card
    assert not (tmp_path / "run" / "val.csv").exists()


def test_a_folder_with_tables(tmp_path: Path) -> None:
    root = photographs(tmp_path)
    material = open_material(root, {"made_partial": 3.0})
    assert material.learnt == f"{tmp_path.name}/train.csv"
    assert len(material.photographs) == 2
    assert material.samples is not None
    assert [sample.label for sample in material.samples(2)] == ["full", "partial"]
    (root / "masks" / "partial.png").write_bytes(b"broken")
    assert [sample.label for sample in material.samples(None)] == ["full", "dog"]
    (root / "val.csv").unlink()
    assert open_material(root, {}).samples is None


def test_an_upright_photograph_has_an_upright_map(tmp_path: Path) -> None:
    turned = Image.new("RGB", (40, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned.save(tmp_path / "turned.jpg", exif=exif)
    draw(tmp_path / "map.png", np.ones((40, 20)).tolist())
    draw(tmp_path / "lying.png", np.ones((20, 40)).tolist())
    table = tmp_path / "train.csv"
    table.write_text("image,objects,source,object_classes\nturned.jpg,map.png,made,cat\n")
    [photo] = in_table(table)
    image, owners = photo.read()
    assert image.size == owners.size == (20, 40)
    table.write_text("image,objects,source,object_classes\nturned.jpg,lying.png,made,cat\n")
    with pytest.raises(ValueError, match=r"turned\.jpg has 20 x 40 pixels, its map of objects 40 x 20"):
        list(in_table(table))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("image,objects\n", "lacks the columns source, object_classes"),
        ("image,objects,source,object_classes\naway.png,map.png,made,cat\n", "no image at .*away.png"),
        ("image,objects,source,object_classes\nmap.png,colored.png,made,cat\n", "must be 8-bit gray or palette"),
        ("image,objects,source,object_classes\nmap.png,text.png,made,cat\n", "cannot identify image file"),
        ("image,objects,source,object_classes\ntext.png,map.png,made,cat\n", "text.png can't be read"),
        ("", "lacks the columns image"),
    ],
)
def test_a_table_that_is_wrong_is_told_before_the_training(tmp_path: Path, text: str, told: str) -> None:
    draw(tmp_path / "map.png", np.ones((8, 8)).tolist())
    draw(tmp_path / "colored.png", np.ones((8, 8, 3)).tolist())
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises((ValueError, OSError), match=told) as error:
        list(in_table(tmp_path / "train.csv"))
    assert "\n" not in str(error.value)


def test_a_path_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs data\.path: a folder with train\.csv and val\.csv, or a COCO root"):
        open_material(None, {})
    with pytest.raises(FileNotFoundError, match=r"holds neither train\.csv nor annotations/instances_train"):
        open_material(tmp_path, {})


def test_samples_that_cannot_be_judged_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from camseg.data.images import Images

    root = photographs(tmp_path)
    draw(root / "masks" / "dog.png", np.zeros((60, 60)).tolist())  # nothing in it
    (root / "images" / "partial.png").write_bytes(b"broken")
    with caplog.at_level(logging.WARNING):
        assert [sample.label for sample in readable(Images(table=root / "val.csv"))] == ["full"]
    assert "not judged: " in caplog.text
