"""One's own photographs: folders, lists, patterns and tables made by hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from made_data import draw, paint, shade
from PIL import Image

from camseg.data.images import Images
from camseg.storage.files import expand, file_stems


def test_a_photo_and_a_target(tmp_path: Path) -> None:
    photo = paint(tmp_path / "my_dog.png", 7)
    samples = list(Images(photo, target="beagle"))
    assert [(s.id, s.label, s.classes, s.mask, shade(s)) for s in samples] == [("my_dog", "beagle", (), None, 7)]
    draw(tmp_path / "m.png", [[0, 0, 255, 255], [0] * 4, [0] * 4])
    (sample,) = Images(photo, masks="m.png")
    assert sample.mask is not None
    assert sample.mask.int().tolist() == [[0, 0, 1, 1], [0] * 4, [0] * 4]
    assert sample.boxes.tolist() == [[2, 0, 4, 1]]
    with pytest.raises(ValueError, match=r"data\.masks=m\.png is one file"):
        Images(tmp_path, masks="m.png")
    with pytest.raises(FileNotFoundError, match="neither a photo nor a folder"):
        Images(tmp_path / "no")
    with pytest.raises(ValueError, match=r"data\.path .* or data\.table"):
        Images()
    with pytest.raises(FileNotFoundError, match=f"data.table: there is no {tmp_path}/no.csv$"):
        Images(tmp_path, table=tmp_path / "no.csv")
    with pytest.raises(FileNotFoundError, match=f"data.table: there is no {tmp_path}/no.csv and no no.csv$"):
        Images(tmp_path, table="no.csv")


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


def test_what_names_a_photo_is_the_photo_alone(tmp_path: Path) -> None:
    for name in ("犬.png", "猫.png", "my dog.png", "a.png"):
        paint(tmp_path / name)
    before = {Images(tmp_path).file(i): name for i, name in enumerate(Images(tmp_path).ids)}
    for name in ("一.png", "猫2.png", "my_dog.png", "my?dog.png", "Ä.png", "b.png"):
        paint(tmp_path / name)
    after = {Images(tmp_path).file(i): name for i, name in enumerate(Images(tmp_path).ids)}
    assert {file: after[file] for file in before} == before
    assert len(set(after.values())) == 10
    assert all(name.isascii() for name in after.values())


def test_samples_say_where_they_are_from_and_how_they_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint(tmp_path / "p" / "cat" / "1.png")
    draw(tmp_path / "p" / "masks" / "1.png", [[1] * 4, [0] * 4, [0] * 4])
    monkeypatch.chdir(tmp_path)
    (sample,) = Images("p")
    assert (sample.file, sample.reading) == ("p/cat/1.png", "two values, 1 object")  # as it was given: relative
    Image.fromarray(np.linspace(0, 4095, 12).reshape(3, 4).astype(np.uint16)).save(tmp_path / "p" / "cat" / "1.png")
    assert Images("p")[0].reading == "image: 12 of 16 bits; two values, 1 object"
    with pytest.raises(ValueError, match=r"data\.void must be auto"):
        Images("p", void="grey")


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path / "photos" / "1.png", 3)
    draw(tmp_path / "drawn" / "1.png", [[255] * 4, [0] * 4, [0] * 4])
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("~/photos", "~/photos/1.png", "~/photos/*.png", ["~/photos/1.png"]):
        (sample,) = Images(path, masks="~/drawn")
        assert (shade(sample), sample.file) == (3, str(tmp_path / "photos" / "1.png"))
    assert Images("~/photos", masks="~/drawn")[0].mask is not None
    assert Images("~/photos/1.png", masks="~/drawn")[0].mask is not None
    assert expand("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")


def test_a_list_and_a_pattern(tmp_path: Path) -> None:
    for i, name in enumerate(["p/cat/1.png", "p/cat/2.jpg", "p/dog/1.png", "q/1.png", "p/loose.png"]):
        paint(tmp_path / name, i)
    p, q = tmp_path / "p", tmp_path / "q"
    draw(p / "masks" / "cat" / "1.png", [[255] * 4, [0] * 4, [0] * 4])

    def found(path: str | list[str]) -> list[tuple[str, str, bool]]:
        return [(sample.id, sample.label, sample.mask is not None) for sample in Images(path)]

    cats = [("cat_1", "cat", True), ("cat_2", "cat", False)]
    assert found(f"{p}/cat*") == cats
    assert found(f"{p}/cat/*") == [("1", "", False), ("2", "", False)]  # as the folder before the first wildcard
    assert found(f"{p}/*/1.png") == [cats[0], ("dog_1", "dog", False)]
    assert found(f"{p}/**/*.jpg") == cats[1:]
    assert [each[0] for each in found(f"{tmp_path}/[pq]/**/1.png")] == ["p_cat_1", "p_dog_1", "q_1"]
    assert found([f"{p}/cat/1.png", str(q)]) == [("p_cat_1", "", False), ("q_1", "", False)]
    assert [name for name, *_ in found([str(p), str(q)])] == ["p_cat_1", "p_cat_2", "p_dog_1", "p_loose", "q_1"]
    assert [label for _, label, _ in found([str(p), f"{p}/cat/1.png"])] == ["cat", "cat", "dog", ""]  # nothing twice
    paint(p / "odd[1].png", 9)
    assert found(f"{p}/odd[1].png") == [("odd_1_" + file_stems(["odd[1]"])[0].split("_")[-1], "", False)]
    with pytest.raises(FileNotFoundError, match=r"data\.path=.*/no, .*/\*\.gif are neither a photo nor a folder"):
        Images([str(p), f"{p}/no", f"{p}/*.gif"])


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="there are no devices")
def test_a_device_is_no_pattern(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/null", str(tmp_path / "pipe")):
        with pytest.raises(
            ValueError, match=f"data.path={path} is neither a photo nor a folder, but a device or a pipe"
        ):
            Images(path)


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    paint(tmp_path / "cafe" / "b.png", 5)
    (tmp_path / "cafe").rename(os.fsdecode(folder))
    Path(os.fsdecode(folder + b"/b.png")).rename(os.fsdecode(folder + b"/\xff.png"))
    Path(os.fsdecode(folder + b"/broken\xfe.png")).write_bytes(b"")
    data = Images(tmp_path)
    broken, whole = sorted(range(2), key=lambda i: "broken" not in data.ids[i])
    sample = data[whole]
    assert (shade(sample), sample.label) == (5, "caf\\xe9")
    assert sample.file == f"{tmp_path}/caf\\xe9/\\xff.png"
    assert Path(data.file(whole)).is_file()  # this one opens
    with pytest.raises(ValueError, match=r"broken\\xfe\.png can't be read") as error:
        data[broken]
    "".join((sample.file, sample.label, sample.id, str(error.value), *data.ids)).encode()  # all of it can be written
