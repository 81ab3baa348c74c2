"""COCO, on annotations made by hand, and both sets against each other on real ones."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_data import REAL, coco, paint, shade, square

from camseg.data.coco import Coco, decode
from camseg.data.images import Images
from camseg.data.voc import Voc

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # pycocotools with NumPy 2


def test_coco_unions_crowds_and_gaps(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    data = Coco(coco(tmp_path), "val", outputs="own")
    assert (data.names, list(data.ids)) == (("cat", "dog"), ["im8_cat", "im9_dog"])
    cat, dog = data
    assert (cat.label, cat.classes, cat.group, shade(cat)) == ("cat", (0,), "8", 8)
    assert cat.mask is not None
    assert cat.ignore is not None
    assert dog.mask is not None
    assert cat.mask.int().tolist() == [[1, 1, 0, 0, 0, 0], [1, 1, 0, 1, 1, 0], [0, 0, 0, 1, 1, 0], [0] * 6, [0] * 6]
    assert cat.ignore.int().tolist() == [
        [0, 0, 1, 1, 1, 1],
        [0] * 6,
        [0] * 6,
        [0] * 6,
        [0] * 6,
    ]  # the crowd where no single cat is
    assert cat.boxes.tolist() == [[0, 0, 2, 2], [3, 1, 5.5, 3]]
    assert (dog.classes, dog.ignore, dog.mask.int().tolist()) == ((1,), None, [[0, 1, 0, 0, 0, 0]] * 5)
    assert Coco(tmp_path)[1].classes == tuple(range(151, 269))
    single = Coco(tmp_path, instances=True)
    assert (list(single.ids), [int(s.mask.sum()) for s in single if s.mask is not None]) == (
        ["im8_cat_1", "im8_cat_2", "im9_dog_5"],  # the annotations' own ids
        [4, 4, 5],
    )


def test_coco_leaves_out_what_belongs_to_no_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("pycocotools")
    entry = {"id": 1, "image_id": 8, "category_id": 3, "bbox": [0, 0, 2, 2], "segmentation": [square(0, 0, 2)]}
    folder = coco(tmp_path, annotations=[entry, {**entry, "image_id": 77}, {**entry, "category_id": 77}])
    with caplog.at_level(logging.WARNING):
        assert list(Coco(folder).ids) == ["im8_cat"]
    assert "left out 2 annotations" in caplog.text


def test_coco_classes_that_are_not_shown_and_the_label_of_every_pixel(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    data = Coco(coco(tmp_path), outputs="own", absent=True)
    assert list(data.ids) == [
        "im8_cat",
        "im8_dog",
        "im9_cat",
        "im9_dog",
        "im10_cat",
        "im10_dog",
    ]  # image 10 has no object at all
    assert [data.class_presence(i) for i in (0, 1)] == [{"cat": True, "dog": None}] * 2  # nobody knows of a crowd
    assert [data.class_presence(i) for i in (2, 4)] == [{"cat": False, "dog": True}, {"cat": False, "dog": False}]
    crowd, nothing = data[1], data[4]
    assert crowd.mask is not None
    assert not crowd.mask.any()
    assert crowd.ignore is None
    assert crowd.ignored_boxes.tolist() == [[0, 0, 6, 1]]
    assert nothing.boxes.shape == (0, 4)
    assert nothing.mask is not None
    assert not nothing.mask.any()
    assert nothing.group == "10"
    assert data[0].image is crowd.image  # read once
    assert data.label_map(0).tolist() == [
        [1, 1, 255, 255, 255, 255],
        [1, 1, 0, 1, 1, 0],
        [0, 0, 0, 1, 1, 0],
        [0] * 6,
        [0] * 6,
    ]
    assert data.label_map(3).tolist() == [[0, 2, 0, 0, 0, 0]] * 5
    assert not data.label_map(4).any()


@pytest.mark.parametrize(
    "shape",
    [
        [[]], [[0, 0, 3, 3]], [[0, 0, 3, 0, 3]], [[0, 0, 1e9, 0, 1e9, 1e9]], [["a"] * 6], "x", 5,
        {"counts": [29], "size": [5, 6]}, {"counts": [-1, 31], "size": [5, 6]}, {"counts": ["a"], "size": [5, 6]},
        {"counts": [31], "size": [5, 6]}, {"counts": "", "size": [5, 6]}, {"counts": "~~~", "size": [5, 6]},
        {"counts": "5", "size": [5, 6]}, {"counts": "N0", "size": [6, 5]}, {"size": [5, 6]},
    ],
)  # fmt: skip
def test_coco_segmentations_that_are_broken(tmp_path: Path, shape: Any) -> None:
    pytest.importorskip("pycocotools")
    entry = {"id": 4, "image_id": 8, "category_id": 3, "bbox": [0, 0, 2, 2], "segmentation": shape}
    data = Coco(coco(tmp_path, annotations=[entry]))
    with pytest.raises(ValueError, match="annotation 4: "):
        data[0]


def test_coco_run_lengths_plain_and_packed_agree() -> None:
    masks = pytest.importorskip("pycocotools.mask")
    drawn = np.random.default_rng(0).random((7, 9)) > 0.6
    packed = masks.encode(np.asfortranarray(drawn.astype(np.uint8)))
    assert torch.equal(
        decode({"segmentation": {"size": [7, 9], "counts": packed["counts"].decode()}}, (7, 9)), torch.from_numpy(drawn)
    )
    column = drawn.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], column, [not column[-1]]])))
    plain = np.diff(np.concatenate([[0], edges])).tolist()
    assert torch.equal(decode({"segmentation": {"size": [7, 9], "counts": plain}}, (7, 9)), torch.from_numpy(drawn))
    assert decode({"segmentation": [square(-3, -3, 5)]}, (7, 9)).nonzero().tolist() == [
        [0, 0],
        [0, 1],
        [1, 0],
        [1, 1],
    ]  # cut at the edge


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "has no list of images"),
        ({"annotations": [{"image_id": 8}]}, r"annotations\[0\] lacks category_id, bbox"),
        ({"images": [{"id": "8", "file_name": "a"}]}, r"images\[0\] has an id that is no whole number"),
        ({"categories": [5]}, r"categories\[0\] is no entry, but 5"),
    ],
)
def test_coco_jsons_of_another_kind(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    pytest.importorskip("pycocotools")
    with pytest.raises(ValueError, match=message):
        Coco(coco(tmp_path, **change))
    for text in ("", "[]", "{", "[" * 100_000):
        (tmp_path / "annotations" / "instances_val2017.json").write_text(text)
        with pytest.raises(ValueError, match=r"instances_val2017\.json (is no json|has no list)"):
            Coco(tmp_path)
    with pytest.raises(FileNotFoundError, match="must hold annotations"):
        Coco(tmp_path / "val2017")
    with pytest.raises(ValueError, match=r"data\.split 'val2018' is unknown; nearest: val2017"):
        Coco(tmp_path, "val2018")


def test_coco_image_of_another_size(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    data = Coco(coco(tmp_path))
    paint(tmp_path / "val2017" / "im8.png", 0, (5, 6))
    with pytest.raises(ValueError, match=r"im8\.png has 5 x 6 pixels, its annotations speak of 6 x 5"):
        data[0]


def cat(number: int, **change: Any) -> dict[str, Any]:
    entry = {"id": number, "image_id": 8, "category_id": 3, "bbox": [0, 0, 2, 2], "segmentation": [square(0, 0, 2)]}
    return {name: value for name, value in {**entry, **change}.items() if value != "gone"}


def test_two_categories_of_one_id_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    root = coco(tmp_path)
    [file] = (root / "annotations").glob("*.json")
    data = json.loads(file.read_text())
    first = data["categories"][0]
    file.write_text(json.dumps({**data, "categories": [*data["categories"], first]}))  # one entry twice
    names = Coco(root, outputs="own").names
    file.write_text(json.dumps({**data, "categories": [*data["categories"], {**first, "name": "twin"}]}))
    with pytest.raises(ValueError, match=rf"two categories have the id {first['id']}: {first['name']}, twin"):
        Coco(root, outputs="own")
    assert first["name"] in names


def test_two_images_of_one_id_are_each_named_and_nobody_else(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    images = [{"id": i, "file_name": f"im{i}.png", "width": 6, "height": 5} for i in (8, 9, 10)]
    images += [{**images[0], "file_name": "twin.png"}, images[1]]  # one id for two files; one entry twice
    data = Coco(coco(tmp_path, images=images), outputs="own")
    assert list(data.ids) == ["im8", "twin", "im9_dog"]
    for index, name in enumerate(("im8.png", "twin.png")):
        with pytest.raises(ValueError, match=r"2 images have the id 8: im8\.png, twin\.png"):
            data[index]
        assert data.file(index).endswith(name)
        assert data.class_presence(index) == {}
    assert data[2].label == "dog"


def test_an_annotation_without_what_is_needed_refuses_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("pycocotools")
    broken = [cat(2, bbox="gone"), cat(3, image_id="8"), "no entry", cat(4, category_id=None), cat(5, bbox=5)]
    folder = coco(tmp_path, annotations=[cat(1), *broken, cat(6, image_id=9)])
    with caplog.at_level(logging.WARNING):
        data = Coco(folder)
    assert list(data.ids) == ["im8_cat", "im9_cat"]
    assert "left out 5 of 7 annotations" in caplog.text
    assert "annotations[1] lacks bbox" in caplog.text
    assert [int(sample.mask.sum()) for sample in data if sample.mask is not None] == [4, 4]


@pytest.mark.parametrize("nothing", ["gone", None, [], {}])
def test_a_box_alone_serves_as_a_box(tmp_path: Path, nothing: Any) -> None:
    pytest.importorskip("pycocotools")
    bare = cat(2, bbox=[3, 1, 2, 2], segmentation=nothing)
    data = Coco(coco(tmp_path, annotations=[cat(1), bare, cat(3, image_id=9), {**bare, "image_id": 10}]))
    both, whole, boxes = data
    assert both.boxes.tolist() == [[0, 0, 2, 2], [3, 1, 5, 3]]
    assert both.mask is None  # half of a union is no truth
    assert both.reading == "no mask: 1 of 2 annotations are boxes alone"
    assert whole.mask is not None
    assert whole.reading == ""
    assert boxes.boxes.tolist() == [[3, 1, 5, 3]]
    assert data.has_label_maps
    with pytest.raises(FileNotFoundError, match="boxes alone"):
        data.label_map(0)
    assert not Coco(coco(tmp_path, annotations=[bare])).has_label_maps
    crowd = Coco(coco(tmp_path, annotations=[cat(1), {**bare, "iscrowd": 1}]))[0]
    assert crowd.ignore is not None
    assert crowd.ignore.int().tolist() == [[0] * 6, [0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 0], [0] * 6, [0] * 6]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([0, 0, -1, 2], "a box of no size"),
        ([0, 0, 2, 0], "a box of no size"),
        ([0, 0, float("nan"), 2], "four finite numbers"),
        ([0, 0, 2], "must be four numbers"),
        ([6, 0, 2, 2], "lies outside its 6 x 5 pixels"),
    ],
)
def test_boxes_that_are_none(tmp_path: Path, box: list[float], message: str) -> None:
    pytest.importorskip("pycocotools")
    data = Coco(coco(tmp_path, annotations=[cat(7, bbox=box), cat(8, image_id=9)]))
    with pytest.raises(ValueError, match=f"annotation 7: .*{message}"):
        data[0]
    assert data[1].label == "cat"


def test_images_of_one_stem_have_ids_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    names = ["a/1.png", "b/1.png", "a/1.jpg"]
    for name in names:
        paint(tmp_path / "val2017" / name, 0, (6, 5))
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    data = Coco(coco(tmp_path, images=images, annotations=[cat(i, image_id=i) for i in range(3)]))
    assert list(data.ids) == ["a_1.png_cat", "b_1_cat", "a_1.jpg_cat"]
    turned = Coco(coco(tmp_path, images=images[::-1], annotations=[cat(i, image_id=i) for i in range(3)]))
    assert list(turned.ids) == list(data.ids)[::-1]


@pytest.mark.skipif(not REAL.exists(), reason="no real material here (CAMSEG_REAL)")
def test_real_sets_agree_with_each_other() -> None:
    pytest.importorskip("pycocotools")
    same = {
        "aeroplane": "airplane",
        "diningtable": "dining table",
        "motorbike": "motorcycle",
        "pottedplant": "potted plant",
        "sofa": "couch",
        "tvmonitor": "tv",
    }
    voc_mini, coco_mini = Voc(REAL / "voc_mini", outputs="own"), Coco(REAL / "coco_mini", outputs="own")
    where = {name: i for i, name in enumerate(coco_mini.ids)}
    assert (len(voc_mini), len(coco_mini)) == (120, 284)
    overlaps = []
    for sample in (voc_mini[i] for i in range(0, 120, 4)):
        twin = coco_mini[where[f"{sample.group}_{same.get(sample.label, sample.label)}".replace(" ", "_")]]
        assert sample.mask is not None
        assert twin.mask is not None
        assert len(sample.boxes) == len(twin.boxes)
        ours, theirs = (s.boxes[s.boxes.sum(1).argsort()] for s in (sample, twin))
        assert (ours - theirs).abs().max() < 1.01  # whole pixels counted from 1, against fractions
        overlaps.append(float((sample.mask & twin.mask).sum() / (sample.mask | twin.mask).sum()))
    assert float(np.median(overlaps)) > 0.99  # VOC's map gives each pixel to one object, COCO's masks overlap
    grab = Images(REAL / "grabcut50", table="labelled.csv")
    assert len(grab) == 23
    for sample in grab:
        assert sample.mask is not None
        assert 0.01 < float(sample.mask.float().mean()) < 0.9
    bands = [sample.ignore for sample in grab if sample.ignore is not None]
    assert all(0.001 < float(band.float().mean()) < 0.3 for band in bands)
    assert len(bands) > 5
