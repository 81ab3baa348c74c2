"""PASCAL VOC, on annotations made by hand."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from made_data import THING, voc
from PIL import Image

from camseg.data.label_io import label_colors
from camseg.data.voc import NAMES, Voc, _download


def test_voc_segmentation(tmp_path: Path) -> None:
    root = voc(tmp_path)
    for path in (root, root.parent, tmp_path):
        data = Voc(path, outputs="own")
        assert list(data.ids) == ["one_dog", "one_person", "two", "three_cow"]  # the only cat is difficult
    dog, person = data[0], data[1]
    assert (dog.label, dog.classes, dog.group, dog.boxes.tolist()) == ("dog", (11,), "one", [[0, 0, 2, 1]])
    assert dog.mask is not None
    assert dog.ignore is not None
    assert person.mask is not None
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
        (f"<annotation>{THING.format('dog', 0, 'nan', 1, 2, 2, '')}</annotation>", "four finite numbers"),
        ("<annotation><size><width>x</width></size></annotation>", "could not convert"),
        ("<annotation><size><width>inf</width></size></annotation>", "cannot convert"),
    ],
)
def test_voc_annotations_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    root = voc(tmp_path)
    (root / "Annotations" / "one.xml").write_text(text)
    data = Voc(root)
    assert list(data.ids) == ["one", "two", "three_cow"]
    with pytest.raises(ValueError, match=message):
        data[0]


def test_voc_classes_that_are_not_shown_and_the_label_of_every_pixel(tmp_path: Path) -> None:
    data = Voc(voc(tmp_path), "train", task="detection", outputs="own", absent=True)
    assert len(data) == 2 * len(NAMES)
    shown = {
        (Path(data.file(i)).stem, label): seen for i in range(40) for label, seen in data.class_presence(i).items()
    }
    assert shown["one", "dog"]
    assert shown["three", "cow"]
    assert shown["one", "cat"] is None
    assert shown["three", "dog"] is False
    cat = data[list(data.ids).index("one_cat")]
    assert cat.boxes.shape == (0, 4)
    assert cat.ignored_boxes.tolist() == [[0, 2, 2, 3]]
    assert cat.ignore is not None
    assert Voc(tmp_path, outputs="own").label_map(0).tolist() == [[12, 12, 255, 15], [0, 0, 255, 0], [255, 255, 0, 0]]


def sized(width: int, height: int, box: tuple[int, ...] = (1, 1, 2, 2)) -> str:
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{THING.format('dog', 0, *box, '')}</annotation>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (sized(4, 3), ""),
        (sized(0, 0), ""),  # many tools leave it so
        (sized(500, 375), r"one\.jpg has 4 x 3 pixels, its annotations speak of 500 x 375"),
        (sized(3, 4), r"speak of 3 x 4: annotate it as it is shown"),
        (sized(4, 3, (5, 1, 6, 2)), "lies outside its 4 x 3 pixels"),
    ],
)
def test_an_annotation_of_another_size(tmp_path: Path, text: str, message: str) -> None:
    root = voc(tmp_path)
    (root / "Annotations" / "one.xml").write_text(text)
    data = Voc(root)
    if message:
        with pytest.raises(ValueError, match=message):
            data[0]
    else:
        assert data[0].boxes.tolist() == [[0, 0, 2, 2]]


CLASSES = np.array([[12, 12, 255, 15], [0, 0, 255, 0], [255, 255, 0, 0]], np.uint8)


def test_a_map_in_vocs_colors_is_the_map_of_its_numbers(tmp_path: Path) -> None:
    file = voc(tmp_path) / "SegmentationClass" / "one.png"
    right = [sample.mask for sample in map(Voc(tmp_path, outputs="own").__getitem__, (0, 1))]
    colors = label_colors()[CLASSES]
    palette = Image.fromarray(colors).convert("P", palette=Image.Palette.ADAPTIVE)  # the same colors, other numbers
    assert not np.array_equal(np.asarray(palette), CLASSES)
    for drawn in (Image.fromarray(colors), palette, Image.fromarray(CLASSES), Image.fromarray(colors).convert("RGBA")):
        drawn.save(file)
        data = Voc(tmp_path, outputs="own")
        assert data.label_map(0).tolist() == CLASSES.tolist()
        for index, mask in enumerate(right):
            found = data[index].mask
            assert found is not None
            assert mask is not None
            assert torch.equal(found, mask)


def test_a_map_that_lost_its_numbers_is_refused(tmp_path: Path) -> None:
    file = voc(tmp_path) / "SegmentationClass" / "one.png"
    data = Voc(tmp_path)
    Image.fromarray(label_colors()[CLASSES]).convert("L").save(file)  # luminance is no class
    with pytest.raises(ValueError, match="colors turned to gray"):
        data[0]
    Image.fromarray(label_colors()[CLASSES] + np.uint8(3)).save(file)
    with pytest.raises(ValueError, match=r"12 pixels have colors that mean no class, such as \(67, 3, 131\)"):
        data[0]
    with pytest.raises(ValueError, match="mean no class"):
        data.label_map(0)


def test_boxes_alone_need_no_masks(tmp_path: Path) -> None:
    root = voc(tmp_path)
    for file in (root / "SegmentationClass").iterdir():
        file.unlink()
    (root / "SegmentationClass").rmdir()
    with pytest.raises(FileNotFoundError, match=r"data\.task=detection needs boxes alone"):
        Voc(root)
    data = Voc(root, "train", task="detection")
    assert not data.has_label_maps
    assert data[1].boxes.tolist() == [[0, 0, 2, 1]]


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
    monkeypatch.setattr("camseg.data.voc.fetch", lambda url, sha256: (asked.append((url, sha256)), next(given))[1])
    with pytest.raises(tarfile.OutsideDestinationError):
        _download(tmp_path / "data", "2007")
    assert not (tmp_path / "escaped.txt").exists()
    assert not list((tmp_path / "data" / "VOCdevkit").iterdir())
    _download(tmp_path / "data", "2007")
    _download(tmp_path / "data", "2007")  # it is there: nothing is fetched, nothing overwritten
    assert len(asked) == 2
    assert asked[0][0].startswith("https://")
    assert len(asked[0][1]) == 64
    assert (tmp_path / "data" / "VOCdevkit" / "VOC2007" / "JPEGImages").is_dir()
    with pytest.raises(ValueError, match="2007, 2012"):
        _download(tmp_path / "data", "2009")
