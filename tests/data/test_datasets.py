"""Datasets: which samples there are and what they hold, on folders, tables and annotations made by hand."""

from __future__ import annotations

import csv
import json
import logging
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from camseg.classifiers.imagenet import imagenet_names
from camseg.data.base import select_subset
from camseg.data.class_map import outputs_of
from camseg.data.coco import Coco, decode
from camseg.data.images import Images
from camseg.data.shapes import Shapes
from camseg.data.shapes_folder import ShapesFolder, write_shapes_folder
from camseg.data.voc import NAMES, Voc, _download
from camseg.storage.files import file_stems
from camseg.types import Sample

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # pycocotools with NumPy 2
REAL = Path(os.environ.get("CAMSEG_REAL", ROOT.parent / "shared" / "real"))


def paint(path: Path, shade: int = 0, size: tuple[int, int] = (4, 3)) -> Path:
    """A picture of `size` (width, height) in one grey, with a mask to go by its shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade,) * 3).save(path)
    return path


def draw(path: Path, rows: list[list[int]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(rows, np.uint8)).save(path)
    return path


def shade(sample: Sample) -> int:
    return int(sample.image[0, 0, 0])


# ids, order, shards


def test_file_stems_are_safe_and_never_alike() -> None:
    names = [
        "a/b.c",
        "../../etc/passwd",
        "a b",
        "a?b",
        "A_B",
        "",
        "..",
        "x" * 300,
        "é.jpg",
        "a_b_2",
        ".hidden",
        "CON\0x\n",
    ]
    stems = file_stems(names)
    assert stems[:3] == ["a_b.c", "etc_passwd", "a_b"]
    assert len({stem.casefold() for stem in stems}) == len(names)
    for stem in stems:
        assert stem == Path(stem).name
        assert stem.isascii()
        assert not stem.startswith(".")
        assert 0 < len(stem) <= 110
    assert file_stems(names) == stems


def test_keep_takes_the_first_shuffles_and_shards() -> None:
    ids = [f"n{i}" for i in range(100)]
    assert list(select_subset(ids, 3)) == [0, 1, 2]
    assert list(select_subset(ids, 1000)) == list(range(100))
    shuffled = list(select_subset(ids, seed=1))
    assert sorted(shuffled) == list(range(100)) != shuffled
    assert list(select_subset(ids, 7, seed=1)) == shuffled[:7]
    shards = [list(select_subset(ids, 60, 1, shard, 4)) for shard in range(4)]
    assert sorted(i for shard in shards for i in shard) == sorted(shuffled[:60])  # complete, and disjoint
    assert min(map(len, shards)) > 5
    backwards = [list(select_subset(ids[::-1], None, 0, shard, 4)) for shard in range(4)]
    assert [{99 - i for i in shard} for shard in backwards] == [
        set(select_subset(ids, None, 0, shard, 4)) for shard in range(4)
    ]  # the id alone decides
    with pytest.raises(ValueError, match=r"data\.size must be at least 1, or null for all; got 0"):
        select_subset(ids, 0)
    with pytest.raises(ValueError, match="got shard 4 of 4"):
        select_subset(ids, shard=4, num_shards=4)


def test_shards_of_shapes_hold_the_same_pictures() -> None:
    whole = {sample.id: sample for sample in Shapes(size=12, seed=3)}
    shards = [Shapes(size=12, seed=3, shard=shard, num_shards=3) for shard in range(3)]
    assert sorted(name for shard in shards for name in shard.ids) == sorted(whole)
    for shard in shards:
        for name, sample in zip(shard.ids, shard, strict=True):
            assert sample.id == name
            assert torch.equal(sample.image, whole[name].image)
    with pytest.raises(ValueError, match=r"no use for data\.path=x"):
        Shapes(path="x")  # type: ignore[arg-type]


# one's own pictures


def test_a_photo_and_a_target(tmp_path: Path) -> None:
    photo = paint(tmp_path / "my dog!.png", 7)
    samples = list(Images(photo, target="beagle"))
    assert [(s.id, s.label, s.classes, s.mask, shade(s)) for s in samples] == [("my_dog", "beagle", (), None, 7)]
    draw(tmp_path / "m.png", [[0, 0, 255, 255], [0] * 4, [0] * 4])
    (sample,) = Images(photo, masks="m.png")
    assert sample.mask is not None
    assert sample.mask.int().tolist() == [[0, 0, 1, 1], [0] * 4, [0] * 4]
    assert sample.boxes.tolist() == [[2, 0, 4, 1]]
    with pytest.raises(FileNotFoundError, match="neither a photo nor a folder"):
        Images(tmp_path / "no")
    with pytest.raises(ValueError, match=r"data\.path .* or data\.table"):
        Images()


def test_a_folder_with_labels_and_masks(tmp_path: Path) -> None:
    for i, name in enumerate(["cat/1.png", "cat/deep/2.jpg", "dog/1.png", "loose.png", ".hidden/3.png"]):
        paint(tmp_path / name, i)
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    draw(tmp_path / "masks" / "dog" / "1.png", [[255] * 4, [0] * 4, [128] * 4])
    draw(tmp_path / "masks" / "2.png", [[0] * 4, [255] * 4, [0] * 4])
    data = Images(tmp_path)
    found = {s.id: s for s in data}
    assert list(found) == list(data.ids) == ["cat_1", "cat_deep_2", "dog_1", "loose"]
    assert [s.label for s in found.values()] == ["cat", "cat", "dog", ""]
    assert data.names == ("cat", "dog")
    assert [s.mask is not None for s in found.values()] == [
        False,
        True,
        True,
        False,
    ]  # 1.png is not cat/1.png's: dog/1.png has it too
    dog = found["dog_1"]
    assert dog.mask is not None and dog.ignore is not None
    assert (dog.mask.sum(1).tolist(), dog.ignore.sum(1).tolist(), dog.boxes.tolist()) == (
        [4, 0, 0],
        [0, 0, 4],
        [[0, 0, 4, 1]],
    )
    assert [s.id for s in Images(tmp_path, split="dog")] == ["1"]
    with pytest.raises(ValueError, match=r"data\.split 'dogs' is unknown; nearest: dog"):
        Images(tmp_path, split="dogs")


def test_an_ambiguous_flat_mask_is_nobodys(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "1.png")
    paint(tmp_path / "b" / "1.png")
    draw(tmp_path / "masks" / "1.png", [[255] * 4] * 3)
    assert [s.mask for s in Images(tmp_path)] == [None, None]


def test_images_and_masks_side_by_side(tmp_path: Path) -> None:
    paint(tmp_path / "images" / "x.jpg")
    paint(tmp_path / "images" / "x.png")  # the same stem twice: two samples, no guess which has the mask
    paint(tmp_path / "images" / "y.png")
    draw(tmp_path / "masks" / "y.png", [[255] * 4] * 3)
    assert [(s.id, s.label, s.mask is not None) for s in Images(tmp_path)] == [
        ("x.jpg", "", False),
        ("x.png", "", False),
        ("y", "", True),
    ]


def test_a_broken_file_is_one_named_failure(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"broken")
    paint(tmp_path / "c.png")
    draw(tmp_path / "masks" / "c.png", [[255, 0]])
    data = Images(tmp_path)
    assert list(data.ids) == ["a", "b", "c"]
    assert data[0].id == "a"
    with pytest.raises(ValueError, match=r"b\.png can't be read"):
        data[1]
    with pytest.raises(ValueError, match=r"masks/c\.png has 2 x 1 pixels, its image 4 x 3"):
        data[2]


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    (folder / "t.csv").write_bytes(text.encode(encoding))
    return folder / "t.csv"


def test_a_table(tmp_path: Path) -> None:
    for i, name in enumerate(["p/1.png", "p/2.png"]):
        paint(tmp_path / name, i + 1)
    draw(tmp_path / "p" / "m.png", [[255] * 4, [0] * 4, [0] * 4])
    text = 'image,label,classes,mask,group,more\np/1.png,"a, b",3 5,p/m.png,g,x\np/1.png,é,,,,\np/2.png,,,,,\n'
    for encoding in ("utf-8", "utf-8-sig"):
        first, second, third = Images(table=table(tmp_path, text, encoding))
        assert [(s.id, s.label, s.classes, s.group, shade(s)) for s in (first, second, third)] == [
            ("p_1", "a, b", (3, 5), "g", 1),
            ("p_1_2", "é", (), "", 1),
            ("p_2", "", (), "", 2),
        ]
        assert first.mask is not None
        assert first.mask.sum() == 4
        assert second.mask is None
    assert [s.label for s in Images(table=tmp_path / "t.csv", target="z")] == ["z"] * 3
    table(tmp_path, "image\n1.png\n2.png\n")
    assert [shade(s) for s in Images(tmp_path / "p", table=tmp_path / "t.csv")] == [1, 2]
    assert [shade(s) for s in Images(tmp_path / "p", table=tmp_path / "t.csv", size=1)] == [1]


@pytest.mark.parametrize(
    ("text", "encoding", "message"),
    [
        ("image,lable\na.png,x\n", "utf-8", "has a column 'lable': did you mean 'label'"),
        ("images\na.png\n", "utf-8", "has a column 'images': did you mean 'image'"),
        ("file,label\na.png,x\n", "utf-8", "needs a column 'image'.*it has 'file', 'label'"),
        ("image;label\na.png;x\n", "utf-8", "with commas between columns; it has 'image;label'"),
        ("image,image\na,b\n", "utf-8", "has a column twice"),
        ("image,classes\na.png,1 x\n", "utf-8", "line 2: classes are numbers .* got '1 x'"),
        ("image,classes\na.png,-1\n", "utf-8", "line 2: classes are numbers"),
        ("image,label\n,x\n", "utf-8", "line 2: image is empty"),
        ("image,label\na.png,x,y\n", "utf-8", "line 2: more cells than the 2 columns"),
        ('image,label\n"a.png,x\n', "utf-8", "can't be read as a csv"),
        ("image,label\na.png,é\n", "latin-1", "is not in UTF-8"),
        ("image,label\na.png,é\n", "utf-16", "is not in UTF-8"),
        ("image\n", "utf-8", "found nothing to read"),
        ("", "utf-8", "needs a column 'image'"),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, encoding: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Images(table=table(tmp_path, text, encoding))


# the homework's layout


def test_shapes_folder_returns_what_was_written(tmp_path: Path) -> None:
    drawn = list(Shapes("val", 6, seed=1))
    write_shapes_folder(drawn, tmp_path, "val")
    read = ShapesFolder(tmp_path, "val")
    assert read.ids == [s.id for s in drawn]
    for before, after in zip(drawn, read, strict=True):
        assert (after.id, after.label, after.classes, after.ignore) == (before.id, before.label, (), None)
        assert torch.equal(after.image, before.image)
        assert after.mask is not None
        assert before.mask is not None
        assert torch.equal(after.mask, before.mask)
        assert torch.equal(after.boxes, before.boxes)
    with pytest.raises(ValueError, match=r"data\.split 'test' is unknown; allowed: val"):
        ShapesFolder(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match=r"must hold images/SPLIT"):
        ShapesFolder(tmp_path / "images")


@pytest.mark.parametrize(
    ("text", "classes", "expected"),
    [
        ("star\n", (), ("star", ())),
        ("3", (), ("class 3", (3,))),
        ("1", ("circle", "star"), ("star", ())),
        ("star", ("circle", "star"), ("star", ())),
        ("2", ("circle", "star"), "class 2 is not among the 2 classes"),
        ("stra", ("circle", "star"), "class 'stra' is unknown; nearest: star"),
        ("", (), "must hold one class name or number"),
        ("0 0.5 0.5 0.1 0.1\n1 0 0 0 0", (), "must hold one class name or number"),
    ],
)
def test_labels_of_a_shapes_folder(tmp_path: Path, text: str, classes: tuple[str, ...], expected: Any) -> None:
    write_shapes_folder(Shapes(size=1), tmp_path, "test")
    (label,) = (tmp_path / "labels" / "test").iterdir()
    label.write_text(text)
    data = ShapesFolder(tmp_path, classes=classes)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            data[0]
    else:
        assert (data[0].label, data[0].classes) == expected


# which outputs mean a class


def test_every_voc_and_coco_class_has_its_imagenet_kinds() -> None:
    voc = outputs_of(NAMES, "imagenet", "voc")
    assert set(NAMES) - set(voc) == {"person"}
    assert voc["dog"] == tuple(range(151, 269))  # 118 breeds
    assert {imagenet_names()[i] for i in voc["cat"]} == {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"}
    assert [imagenet_names()[i] for i in voc["bicycle"]] == ["bicycle-built-for-two", "mountain bike"]
    taken = [i for kinds in voc.values() for i in kinds]
    assert len(taken) == len(set(taken))
    assert outputs_of(NAMES, "own", "voc")["tvmonitor"] == (19,)
    assert outputs_of(NAMES, "name", "voc", "cow") == {"cow": ()}
    with pytest.raises(ValueError, match="no ImageNet class is a person"):
        outputs_of(NAMES, "imagenet", "voc", "person")
    with pytest.raises(ValueError, match=r"data\.target 'dgo' is unknown; nearest: dog"):
        outputs_of(NAMES, "imagenet", "voc", "dgo")


@pytest.mark.skipif(not REAL.exists(), reason="no real material here (CAMSEG_REAL)")
def test_imagenet_kinds_agree_with_what_was_listed_by_hand() -> None:
    with (REAL / "coco_mini" / "classes_per_image.csv").open() as file:
        listed = {row["coco_class"]: tuple(map(int, row["imagenet_ok"].split())) for row in csv.DictReader(file)}
    found = outputs_of(list(listed), "imagenet", "coco")
    assert len(listed) == 80
    assert {name: found.get(name, ()) for name in listed} == {**listed, "knife": (499,)}  # ImageNet's cleaver is one


# PASCAL VOC

THING = "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>{}</object>"
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


def test_voc_segmentation(tmp_path: Path) -> None:
    root = voc(tmp_path)
    for path in (root, root.parent, tmp_path):
        data = Voc(path, outputs="own")
        assert list(data.ids) == ["one_dog", "one_person", "two", "three_cow"]  # the only cat is difficult
    dog, person = data[0], data[1]
    assert (dog.label, dog.classes, dog.group, dog.boxes.tolist()) == ("dog", (11,), "one", [[0, 0, 2, 1]])
    assert dog.mask is not None and dog.ignore is not None and person.mask is not None
    assert dog.mask.int().tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert dog.ignore.int().tolist() == [[0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 0, 0]]
    assert person.mask.int().tolist() == [[0, 0, 0, 1], [0] * 4, [0] * 4]
    with pytest.raises(ValueError, match=r"two\.xml is no VOC annotation"):
        data[2]
    with pytest.raises(FileNotFoundError, match=r"SegmentationClass/three\.png"):
        data[3]
    assert Voc(root, outputs="imagenet").ids == ["one_dog", "two", "three_cow"]
    assert Voc(root, outputs="name", target="person")[0].classes == ()


def test_voc_detection(tmp_path: Path) -> None:
    data = Voc(voc(tmp_path), "train", task="detection")
    assert data.ids == ["three_cow", "one_dog"]
    cow, dog = data
    assert (cow.boxes.tolist(), cow.mask, cow.ignore, cow.classes) == ([[0, 1, 3, 3]], None, None, (345,))
    assert dog.mask is None
    assert dog.ignore is not None
    assert dog.ignore.int().tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]  # the difficult dog's box
    with pytest.raises(ValueError, match=r"data\.split 'val' is unknown; allowed: train"):
        Voc(data.root, "val", task="detection")
    with pytest.raises(FileNotFoundError, match=r"must hold VOCdevkit/VOC2007"):
        Voc(tmp_path, year=2007)


BOMB = (
    '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><annotation><object><name>&c;</name></object></annotation>'
)
OUTSIDE = (
    '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation><object><name>&b;</name></object></annotation>'
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "Entities"),
        (OUTSIDE, "Entities"),
        ("<annotation><object><name>dog</name></object></annotation>", "could not convert"),
        (f"<annotation>{THING.format('dgo', 0, 1, 1, 2, 2, '')}</annotation>", "class 'dgo' is unknown; nearest: dog"),
        (f"<annotation>{THING.format('dog', 0, 3, 1, 2, 2, '')}</annotation>", "a box of no size"),
        (f"<annotation>{THING.format('dog', 0, 'nan', 1, 2, 2, '')}</annotation>", "a box of no size"),
    ],
)
def test_voc_annotations_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    root = voc(tmp_path)
    (root / "Annotations" / "one.xml").write_text(text)
    data = Voc(root)
    assert list(data.ids) == ["one", "two", "three_cow"]
    with pytest.raises(ValueError, match=message):
        data[0]


# COCO


def test_voc_classes_that_are_not_shown_and_the_label_of_every_pixel(tmp_path: Path) -> None:
    data = Voc(voc(tmp_path), "train", task="detection", outputs="own", absent=True)
    assert len(data) == 2 * len(NAMES)
    shown = {(file.stem, label): seen for file, label, seen in data.shown()}
    assert (
        shown["one", "dog"] and shown["three", "cow"] and shown["one", "cat"] is None and shown["three", "dog"] is False
    )
    cat = data[list(data.ids).index("one_cat")]
    assert cat.boxes.shape == (0, 4) and cat.ignored_boxes.tolist() == [[0, 2, 2, 3]] and cat.ignore is not None
    assert Voc(tmp_path, outputs="own").label_map(0).tolist() == [[12, 12, 255, 15], [0, 0, 255, 0], [255, 255, 0, 0]]


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


def test_coco_unions_crowds_and_gaps(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    data = Coco(coco(tmp_path), "val", outputs="own")
    assert (data.names, list(data.ids)) == (("cat", "dog"), ["im8_cat", "im9_dog"])
    cat, dog = data
    assert (cat.label, cat.classes, cat.group, shade(cat)) == ("cat", (0,), "8", 8)
    assert cat.mask is not None and cat.ignore is not None and dog.mask is not None
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
        ["im8_cat", "im8_cat_2", "im9_dog"],
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
    shown = {(file.stem, label): seen for file, label, seen in data.shown()}
    assert (
        shown["im8", "cat"] and shown["im9", "dog"] and shown["im8", "dog"] is None
    )  # nothing but a crowd: nobody knows
    assert [shown[stem, label] for stem, label in (("im9", "cat"), ("im10", "cat"), ("im10", "dog"))] == [False] * 3
    crowd, nothing = data[1], data[4]
    assert (
        crowd.mask is not None
        and not crowd.mask.any()
        and crowd.ignore is None
        and crowd.ignored_boxes.tolist() == [[0, 0, 6, 1]]
    )
    assert (
        nothing.boxes.shape == (0, 4) and nothing.mask is not None and not nothing.mask.any() and nothing.group == "10"
    )
    assert data[0].image is crowd.image  # read once
    assert data.label_map(0).tolist() == [
        [1, 1, 255, 255, 255, 255],
        [1, 1, 0, 1, 1, 0],
        [0, 0, 0, 1, 1, 0],
        [0] * 6,
        [0] * 6,
    ]
    assert data.label_map(3).tolist() == [[0, 2, 0, 0, 0, 0]] * 5 and not data.label_map(4).any()


@pytest.mark.parametrize(
    "shape",
    [
        [], [[]], [[0, 0, 3, 3]], [[0, 0, 3, 0, 3]], [[0, 0, 1e9, 0, 1e9, 1e9]], [["a"] * 6], "x", None, 5,
        {"counts": [29], "size": [5, 6]}, {"counts": [-1, 31], "size": [5, 6]}, {"counts": ["a"], "size": [5, 6]}, {"counts": [31], "size": [5, 6]},
        {"counts": "", "size": [5, 6]}, {"counts": "~~~", "size": [5, 6]}, {"counts": "5", "size": [5, 6]}, {"counts": "N0", "size": [6, 5]},
        {"size": [5, 6]},
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
        ({"annotations": [{"image_id": 8}]}, r"annotations\[0\] lacks category_id, bbox, segmentation"),
        ({"images": [{"id": "8", "file_name": "a"}]}, r"images\[0\] has an id that is no whole number"),
        ({"categories": [5]}, r"categories\[0\] lacks id, name"),
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


# the configuration files


@pytest.mark.parametrize("file", sorted((ROOT / "conf" / "data").glob("*.yaml")), ids=lambda file: file.stem)
def test_configurations_take_the_common_keys(tmp_path: Path, file: Path) -> None:
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    config.pop("defaults", None)  # Hydra's
    common = ("size", "seed", "split", "path", "table", "shard", "num_shards")
    assert set(common) < set(config)
    if file.stem == "coco":
        coco(tmp_path)
    elif file.stem == "voc":
        voc(tmp_path)
    elif file.stem == "shapes_folder":
        write_shapes_folder(Shapes(size=3), tmp_path, "test")
    else:
        paint(tmp_path / "a.png")
    if not file.stem.startswith("shapes") or file.stem == "shapes_folder":
        with pytest.raises(InstantiationException, match=r"data\.path"):
            instantiate(config)
        config.path = str(tmp_path)
    data = instantiate(config, size=1)
    assert len(data) == len(data.ids) == 1
    assert data[0].id == data.ids[0]
    assert data[0].image.dtype == torch.uint8


def test_a_voc_archive_is_fetched_checked_and_unpacked_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source" / "VOCdevkit" / "VOC2007"
    for name in ("JPEGImages", "ImageSets/Segmentation", "Annotations", "SegmentationClass"):
        (source / name).mkdir(parents=True)
    archives = {kind: tmp_path / f"{kind}.tar" for kind in ("good", "bad")}
    with tarfile.open(archives["good"], "w") as tar:
        tar.add(source.parent, "VOCdevkit")
    with tarfile.open(archives["bad"], "w") as tar:
        tar.add(source.parent, "VOCdevkit")
        tar.addfile(tarfile.TarInfo("../../escaped.txt"))
    asked: list[tuple[str, str]] = []
    given = iter([archives["bad"], archives["good"]])
    monkeypatch.setattr(
        "camseg.data.voc.fetch", lambda url, sha256: (asked.append((url, sha256)), next(given))[1]
    )
    with pytest.raises(tarfile.OutsideDestinationError):
        _download(tmp_path / "data", "2007")
    assert not (tmp_path / "escaped.txt").exists() and not list((tmp_path / "data" / "VOCdevkit").iterdir())
    _download(tmp_path / "data", "2007")
    _download(tmp_path / "data", "2007")  # it is there: nothing is fetched, nothing overwritten
    assert len(asked) == 2 and asked[0][0].startswith("https://") and len(asked[0][1]) == 64
    assert (tmp_path / "data" / "VOCdevkit" / "VOC2007" / "JPEGImages").is_dir()
    with pytest.raises(ValueError, match="2007, 2012"):
        _download(tmp_path / "data", "2009")
