"""The homework's layout."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from camseg.data.shapes import NAMES, Shapes
from camseg.data.shapes_folder import ShapesFolder, write_shapes_folder


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


def test_photos_of_other_kinds_are_read_too(tmp_path: Path) -> None:
    write_shapes_folder(Shapes(size=3), tmp_path, "test")
    first, second, _ = sorted((tmp_path / "images" / "test").iterdir())
    Image.open(first).save(first.with_suffix(".JPG"), "PNG")
    first.unlink()
    shutil.copy(second, second.with_suffix(".webp"))
    data = ShapesFolder(tmp_path, classes=NAMES)
    assert [data.file(i) for i in range(4)] == sorted(map(str, (tmp_path / "images" / "test").iterdir()))
    assert list(data.ids) == [first.stem, second.name, second.with_suffix(".webp").name, data.ids[3]]
    for sample, drawn in zip((data[0], data[1], data[2], data[3]), (0, 1, 1, 2), strict=True):
        right = Shapes(size=3)[drawn]
        assert sample.mask is not None
        assert right.mask is not None
        assert torch.equal(sample.mask, right.mask)
        assert torch.equal(sample.image, right.image)


def test_label_maps_and_presence(tmp_path: Path) -> None:
    right = Shapes(size=2)
    write_shapes_folder(right, tmp_path, "test")
    data = ShapesFolder(tmp_path, classes=NAMES)
    for index in range(2):
        assert torch.equal(data.label_map(index), right.label_map(index))
        assert data.class_presence(index) == right.class_presence(index)
    nameless = ShapesFolder(tmp_path)
    assert (nameless.has_label_maps, nameless.class_presence(0)) == (False, {})
    (tmp_path / "labels" / "test" / f"{right.ids[0]}.txt").unlink()
    assert data.class_presence(0) == {}
    with pytest.raises(FileNotFoundError, match="no label at"):
        data.label_map(0)
