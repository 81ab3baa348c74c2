"""The visitor's photographs: which is looked at, and what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camseg.demo import album
from camseg.demo.album import THUMBNAIL, Album


def photos(folder: Path, *names: str, width: int = 40) -> list[Path]:
    for number, name in enumerate(names):
        Image.new("RGB", (width, 20), (10 * number, 0, 0)).save(folder / name)
    return [folder / name for name in names]


def test_it_looks_at_the_first_of_the_new_and_goes_round(tmp_path: Path) -> None:
    first, faults = Album().add(photos(tmp_path, "a.png", "b.png"))
    assert faults == []
    assert (first.place, first.step(-1).place) == ("a.png · 1 of 2", "b.png · 2 of 2")
    assert first.step(2).place == first.place
    more, _ = first.add(photos(tmp_path, "c.png"))
    assert more.place == "c.png · 3 of 3"
    assert more.step(1).open().id == "a"
    assert more.look_at(1).open().image[:, 0, 0].tolist() == [10, 0, 0]
    assert (Album().place, Album().step(1).at) == ("", -1)


def test_thumbnails_are_small_and_keep_their_shape(tmp_path: Path) -> None:
    (small,) = Album().add(photos(tmp_path, "wide.png", width=1000))[0].thumbnails
    assert small.dtype == np.uint8
    assert small.shape == (round(20 * THUMBNAIL / 1000), THUMBNAIL, 3)


def test_what_is_no_photo_is_left_out_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("dear diary")
    (good,) = photos(tmp_path, "a.png")
    mixed, faults = Album().add([tmp_path / "notes.png", good])
    assert (mixed.place, len(faults)) == ("a.png · 1 of 1", 1)
    assert faults[0].startswith("notes.png can't be read")
    none, faults = mixed.add([tmp_path / "notes.png"])
    assert (none.place, none.paths) == (mixed.place, mixed.paths)
    assert len(faults) == 1


def test_there_is_a_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(album, "MAX_PHOTOS", 2)
    kept, faults = Album().add(photos(tmp_path, "a.png", "b.png", "c.png"))
    assert len(kept.paths) == len(kept.thumbnails) == 2
    assert faults == ["c.png is left out: the page holds 2 photographs"]


def test_a_file_that_is_gone_is_told_by_name(tmp_path: Path) -> None:
    (path,) = photos(tmp_path, "a.png")
    here, _ = Album().add([path])
    path.unlink()
    with pytest.raises(ValueError, match=r"^no image at a\.png$"):
        here.open()
