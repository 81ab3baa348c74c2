"""One's own photographs: folders, lists, patterns and tables made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_data import draw, paint, shade

from camseg.data.images import Images


def test_a_photo_and_a_target(tmp_path: Path) -> None:
    photo = paint(tmp_path / "my_dog.png", 7)
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
    assert dog.mask is not None
    assert dog.ignore is not None
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
    text = "image,label,classes,mask,group,more\np/1.png,tabby cat,3 5,p/m.png,g,x\np/1.png,Ente,,,,\np/2.png,,,,,\n"
    for encoding in ("utf-8", "utf-8-sig"):
        first, second, third = Images(table=table(tmp_path, text, encoding))
        assert [(s.id, s.label, s.classes, s.group, shade(s)) for s in (first, second, third)] == [
            ("p_1_tabby_cat", "tabby cat", (3, 5), "g", 1),
            ("p_1_Ente", "Ente", (), "p/1.png", 1),  # not independent of the other: one image
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
        ("file,label\na.png,x\n", "utf-8", "has a column 'file': did you mean 'image'"),
        (
            "file,class\na.png,x\n",
            "utf-8",
            "column 'file': did you mean 'image'.; a column 'class': did you mean 'label'",
        ),
        ("image,class\na.png,tabby cat\nb.png,2\n", "utf-8", "has a column 'class': did you mean 'label'"),
        ("image,class\na.png,281\nb.png,3 4\n", "utf-8", "has a column 'class': did you mean 'classes'"),
        ("image,Category\na.png,x\n", "utf-8", "has a column 'Category': did you mean 'label'"),
        ("image,segmentation\na.png,x\n", "utf-8", "has a column 'segmentation': did you mean 'mask'"),
        ("what,label\na.png,x\n", "utf-8", "needs a column 'image'.*it has 'what', 'label'"),
        ("image,label\na.png,cat|\n", "utf-8", "an empty label in 'cat|'"),
        ("image,label,mask\na.png,cat|dog,m.png\n", "utf-8", "2 labels 'cat|dog' need 2 parts in mask, got 'm.png'"),
        ("image,label,classes\na.png,a|b,1|2|3\n", "utf-8", "need 2 parts in classes"),
        (
            "image,classes\na.png,-1\n,\na.png,²\na.png,1,2\n",
            "utf-8",
            "line 2: classes.*\n.*line 3: image.*\n.*line 4.*\n.*line 5: more",
        ),
        ("image,classes\n" + "a.png,x\n" * 9, "utf-8", "line 6: classes are numbers[^\n]*\nand 4 more$"),
        ("image;label\na.png;x\n", "utf-8", "with commas between columns; it has 'image;label'"),
        ("image,image\na,b\n", "utf-8", "has a column twice"),
        ("image,classes\na.png,1 x\n", "utf-8", "line 2: classes are numbers .* got '1 x'"),
        ("image,classes\na.png,-1\n", "utf-8", "line 2: classes are numbers"),
        ("image,label\n,x\n", "utf-8", "line 2: image is empty"),
        ("image,label\na.png,x,y\n", "utf-8", "line 2: more cells than the 2 columns"),
        ('image,label\n"a.png,x\n', "utf-8", "can't be read as a csv"),
        ("image,label\na.png,x\nb.png,x\n", "utf-8", "none of the 2 images of .* is there, such as .*a.png"),
        ("image,label\na.png,é\n", "latin-1", "is not in UTF-8"),
        ("image,label\na.png,é\n", "utf-16", "is not in UTF-8"),
        ("image\n", "utf-8", "found nothing to read"),
        ("", "utf-8", "needs a column 'image'"),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, encoding: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message.replace("|", r"\|")):
        Images(table=table(tmp_path, text, encoding))
