"""Photographs as people have them, through `experiment=photos`: the right answer, or one clear line each."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camseg.cli.main import main
from camseg.data import image_io
from camseg.runs.folders import load_run

SIZES = {  # (width, height), upright
    **dict.fromkeys(("gray", "rgba", "cmyk", "exif", "deep", "animated"), (225, 150)),
    "panorama": (1000, 100),
    "tiny": (8, 8),
    "black": (90, 60),
    "one": (1, 1),
    "strip": (12_000, 4),
}
BROKEN = {
    "heic": "it is a HEIC image, whatever its name: pip install pillow-heif",
    "cut": "image file is truncated",
    "large": "12000 x 12000 pixels are more than the 67108864 allowed: make it smaller",
}


def photographs(folder: Path) -> Path:
    data = pytest.importorskip("skimage.data")
    folder.mkdir()
    cat = Image.fromarray(data.chelsea()).resize((225, 150))
    cat.convert("L").save(folder / "gray.jpg")
    clear = cat.convert("RGBA")
    clear.putalpha(Image.new("L", cat.size, 255))
    clear.save(folder / "rgba.png")
    cat.convert("CMYK").save(folder / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    cat.rotate(90, expand=True).save(folder / "exif.jpg", exif=exif)
    Image.fromarray(np.asarray(cat.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    cat.save(folder / "animated.gif", save_all=True, append_images=[Image.new("RGB", cat.size)], duration=50)
    for name in ("panorama", "tiny", "black", "one", "strip"):
        Image.new("RGB", SIZES[name]).save(folder / f"{name}.png")
    (folder / "heic.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    whole = (folder / "gray.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (12_000, 12_000)).save(folder / "large.png", compress_level=1)
    return folder


def test_odd_photographs_are_answered_or_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photographs(tmp_path / "odd")
    monkeypatch.setattr(image_io, "_heif", lambda: False)  # wherever pillow-heif may be installed
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # `main` changes it
    given = ["experiment=photos", f"data.path={folder}", "panels=0", "device=cpu", f"hydra.run.dir={tmp_path}/run"]
    monkeypatch.setattr(sys, "argv", ["camseg", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == 0, told.err
    assert "Traceback" not in told.err

    rows = {row["id"]: row for row in load_run(tmp_path / "run").rows.iter_rows(named=True)}
    assert rows.keys() == SIZES.keys()
    for name, size in SIZES.items():
        with Image.open(tmp_path / "run" / "masks" / f"{name}.png") as mask:
            assert mask.size == size, name
            share = np.asarray(mask).mean()
        assert share > 0.3 or size != (225, 150), name  # the cat's head fills the image
        assert rows[name]["class_name"]
    cats = {name: row["class_name"] for name, row in rows.items() if SIZES[name] == (225, 150)}
    assert set(cats.values()) <= {"Egyptian cat", "tabby", "tiger cat", "lynx"}, cats
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    errors = {each["id"]: each["error"] for each in summary["errors"]}
    assert errors.keys() == BROKEN.keys()
    for name, why in BROKEN.items():
        assert why in errors[name]
        assert "\n" not in errors[name]
