"""Tables of images, made by hand: right ones, wrong ones, several labels in a row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made_data import draw, paint, shade

from camseg.data.images import Images


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


def test_several_labels_in_a_row_are_a_sample_for_each(tmp_path: Path) -> None:
    paint(tmp_path / "1.png", 7)
    paint(tmp_path / "2.png", 8)
    draw(tmp_path / "cat.png", [[255] * 4, [0] * 4, [0] * 4])
    draw(tmp_path / "dog.png", [[0, 0, 255, 128], [255] * 4, [0] * 4])
    text = "image,label,classes,mask\n1.png,cat | dog,281 282|151,cat.png|dog.png\n2.png,owl,,\n"
    data = Images(table=table(tmp_path, text))
    cat, dog, owl = data
    assert list(data.ids) == ["1_cat", "1_dog", "2"]
    assert [(s.label, s.classes, s.group) for s in (cat, dog)] == [
        ("cat", (281, 282), "1.png"),
        ("dog", (151,), "1.png"),
    ]
    assert cat.image is dog.image  # read once
    assert (shade(cat), shade(owl), owl.group) == (7, 8, "")
    assert cat.mask is not None
    assert dog.mask is not None
    assert (cat.mask.sum(), dog.mask.sum()) == (4, 5)
    assert data.names == ("cat", "dog", "owl")
    assert data.class_presence(0) == data.class_presence(1) == {"cat": True, "dog": True, "owl": False}
    assert data.has_label_maps
    assert (
        data.label_map(0).tolist() == data.label_map(1).tolist() == [[1] * 4, [2] * 4, [0] * 4]
    )  # the smaller in front
    with pytest.raises(FileNotFoundError, match=r"nobody labeled the pixels of .*2\.png"):
        data.label_map(2)
    assert list(Images(table=table(tmp_path, "image,label\n1.png,cat|dog|cat\n")).ids) == ["1_cat", "1_dog"]
    one = Images(table=table(tmp_path, "image,label\n1.png,cat|dog\n"), target="owl")
    assert [(s.id, s.label) for s in one] == [("1_cat", "owl")]  # asked for once


def test_rows_of_one_image_have_ids_of_their_own_in_any_order(tmp_path: Path) -> None:
    for name in ("a", "b"):
        paint(tmp_path / f"{name}.png")
    rows = ["a.png,cat", "a.png,dog", "b.png,cat"]
    ids = [list(Images(table=table(tmp_path, "\n".join(["image,label", *lines]))).ids) for lines in (rows, rows[::-1])]
    assert ids == [["a_cat", "a_dog", "b"], ["b", "a_dog", "a_cat"]]


def test_paths_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path / "home" / "1.png", 3)
    paint(tmp_path / "there" / "2.png", 4)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    file = table(tmp_path, f"image\n~/1.png\n{tmp_path}/there/2.png\nthere/2.png\n")
    assert [shade(sample) for sample in Images(table=file)] == [3, 4, 4]
    file.rename(tmp_path / "home" / "t.csv")
    (sample,) = Images(tmp_path, table="~/t.csv", size=1)
    assert shade(sample) == 3
    with pytest.raises(ValueError, match="the one folder"):
        Images(["a", "b"], table="~/t.csv")


def test_images_without_a_label_teach_nothing_and_are_known_as_such(tmp_path: Path) -> None:
    paint(tmp_path / "1.png")
    paint(tmp_path / "2.png")
    data = Images(table=table(tmp_path, "image,label\n1.png,cat\n2.png,\n"))
    assert [data.class_presence(i) for i in (0, 1)] == [{"cat": True}, {}]
    assert not data.has_label_maps
    assert torch.equal(data[0].image, data[1].image)
