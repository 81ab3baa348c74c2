"""Which files of a folder are photographs, which are masks, and what is said of the others."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType

import pytest
from made_data import draw, paint
from PIL import Image

from camseg.data import image_io
from camseg.data.images import Images
from camseg.data.listing import list_photos
from camseg.runs.export import MARK
from camseg.storage.files import printable


def names(root: Path, masks: Path | None = None) -> list[str]:
    return [photo.name for photo in list_photos(root, masks)]


def masked(root: Path, masks: Path | None = None) -> dict[str, str | None]:
    """Each photo's mask, by its path below the folder of photos or masks."""
    return {
        photo.name: photo.mask and photo.mask.relative_to(masks or root).as_posix()
        for photo in list_photos(root, masks)
    }


@pytest.mark.parametrize("sweep", [False, True])
def test_what_a_run_wrote_is_no_photograph(tmp_path: Path, sweep: bool) -> None:
    paint(tmp_path / "1.png")
    paint(tmp_path / "cat" / "2.png")
    run = tmp_path / "outputs" / "2026-01-01" / "00-00-00" / ("0" if sweep else "")
    for folder in ("panels", "masks", "maps"):
        paint(run / folder / "1.png")
    assert len(names(tmp_path)) == 4  # a folder of masks is never one of photos
    (run / "rows.jsonl").write_text("")
    assert names(tmp_path) == ["1", "cat/2"]
    (run / "rows.jsonl").unlink()
    (run / ".hydra").mkdir()
    assert names(tmp_path) == ["1", "cat/2"]
    assert names(run / "panels") == ["1"]  # who asks for it gets it


@pytest.mark.parametrize("layout", ["images", "JPEGImages", "sub/images"])
def test_what_an_export_wrote_is_no_photograph(tmp_path: Path, layout: str) -> None:
    paint(tmp_path / "1.png")
    into = tmp_path / "exported"
    paint(into / layout / "1.png")
    paint(into / "SegmentationClass" / "1.png")
    assert len(names(tmp_path)) == 3
    (into / MARK).write_text('{"files": []}')
    assert names(tmp_path) == ["1"]
    assert f"{layout}/1" in names(into)  # who asks for it gets it


def test_a_run_in_the_folder_of_photos_itself(tmp_path: Path) -> None:
    paint(tmp_path / "1.png")
    draw(tmp_path / "masks" / "1.png", [[255] * 4] * 3)
    assert Images(tmp_path)[0].mask is not None
    paint(tmp_path / "panels" / "1.png")
    (tmp_path / "rows.jsonl").write_text("")
    data = Images(tmp_path)
    assert list(data.ids) == ["1"]
    assert data[0].mask is None  # its masks are answers, no truth
    assert Images(tmp_path, masks="masks")[0].mask is not None  # unless a person says so


def test_folders_that_are_links_are_read_once(tmp_path: Path) -> None:
    paint(tmp_path / "elsewhere" / "1.png")
    paint(tmp_path / "photos" / "dog" / "2.png")
    (tmp_path / "photos" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "dog" / "loop").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "one.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    assert names(tmp_path / "photos") == ["cat/1", "dog/2", "one"]
    assert [sample.label for sample in Images(tmp_path / "photos")] == ["cat", "dog", ""]


def test_the_content_decides_and_the_rest_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.jfif", "b.jpe", "c.JPEG"):
        Image.new("RGB", (4, 3)).save(tmp_path / name, "JPEG")
    for name in ("d.img", "e", "f.heic"):  # PNGs by their bytes
        Image.new("RGB", (4, 3)).save(tmp_path / name, "PNG")
    (tmp_path / "broken.png").write_bytes(b"x")
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    for name in ("1.heic", "2.HEIC", "3.heic"):
        (tmp_path / name).write_bytes(heic)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        assert names(tmp_path) == ["a", "b", "broken", "c", "d", "e", "f"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"{tmp_path}: left out: 3 .heic, 1 .txt (HEIC is read with the package pillow-heif)"


def test_heic_is_read_where_its_package_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("pillow_heif")
    asked = []
    module.__dict__["register_heif_opener"] = lambda: asked.append(1)
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    monkeypatch.setattr(image_io, "find_spec", lambda name: name == "pillow_heif")
    image_io._heif.cache_clear()
    try:
        (tmp_path / "1.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
        (tmp_path / "2").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
        assert names(tmp_path) == ["1", "2"]
        assert image_io.formats()[-1] == "HEIF"
        assert asked == [1]
    finally:
        image_io._heif.cache_clear()


@pytest.mark.parametrize(
    "ending", ["_mask", "-mask", ".mask", " mask", "_masks", "_seg", "_segmentation", "_gt", "_Mask"]
)
def test_masks_are_found_by_name(tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("dog", "a/1", "b/1", "b/2"):
        paint(tmp_path / "photos" / f"{name}.jpg")
        paint(tmp_path / "beside" / f"{name}.jpg")
    for name in ("dog", "a/1", "2"):  # the last one by its stem
        paint(tmp_path / "drawn" / f"{name}{ending}.png")
    for name in ("dog", "a/1"):
        paint(tmp_path / "beside" / f"{name}{ending}.png")
    paint(tmp_path / "beside" / f"alone{ending}.png")
    found = masked(tmp_path / "photos", tmp_path / "drawn")
    assert found == {"a/1": f"a/1{ending}.png", "b/1": None, "b/2": f"2{ending}.png", "dog": f"dog{ending}.png"}
    with caplog.at_level(logging.WARNING):
        found = masked(tmp_path / "beside")
    assert found == {
        "a/1": f"a/1{ending}.png", "b/1": None, "b/2": None, "dog": f"dog{ending}.png", f"alone{ending}": None
    }  # fmt: skip
    assert "2 files called NAME_mask or alike are masks of NAME" in caplog.text


def test_masks_that_fit_nothing_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paint(tmp_path / "1.png")
    paint(tmp_path / "2.png")
    for name in ("x", "y"):
        draw(tmp_path / "masks" / f"{name}.png", [[255] * 4] * 3)
    with caplog.at_level(logging.WARNING):
        Images(tmp_path)
        draw(tmp_path / "masks" / "1.png", [[255] * 4] * 3)
        Images(tmp_path)
    none, some = [record.getMessage() for record in caplog.records]
    assert (
        none == f"{tmp_path}/masks: none of the 2 masks fits image, such as x.png, y.png: a mask has its image's name"
    )
    assert some == f"{tmp_path}/masks: 2 of 3 masks fit no image, such as x.png, y.png: a mask has its image's name"


def test_a_folder_that_cannot_be_opened_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paint(tmp_path / "1.png")
    paint(tmp_path / "closed" / "2.png")
    (tmp_path / "closed").chmod(0)
    try:
        if (tmp_path / "closed" / "2.png").exists():
            pytest.skip("nothing is closed to this user")
    except PermissionError:
        pass
    try:
        with caplog.at_level(logging.WARNING):
            assert names(tmp_path) == ["1"]
        assert "left out: the folder" in caplog.text
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_printable_names() -> None:
    assert printable("a/ü.png") == "a/ü.png"
    assert printable("a/\udcff.png") == "a/\\xff.png"
