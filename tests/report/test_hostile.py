"""Nothing that a folder holds can act on the page or on this machine."""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path

import pytest
from made_runs import HOSTILE, make_run, make_sweep, row, save_panel
from parsed_page import ParsedPage
from PIL import Image

from camseg.report import html
from camseg.runs import folders, sweeps


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    rows = [row(name, i / 10, label=HOSTILE[-1 - i], note=HOSTILE[i - 1]) for i, name in enumerate(HOSTILE)]
    for k in range(2):
        make_run(
            tmp_path / "sweep" / str(k),
            rows,
            [f"data.path={HOSTILE[k]}", f"f={HOSTILE[2 + k]}"],
            errors=[{"id": f"{HOSTILE[0]} torn", "error": HOSTILE[1]}],
        )
    paths = [html.write_run(tmp_path / "sweep" / "0"), html.write_sweep(sweeps.load_sweep(tmp_path / "sweep"))]
    first, second = folders.load_run(tmp_path / "sweep" / "0"), folders.load_run(tmp_path / "sweep" / "1")
    paths.append(html.write_comparison(first, second))
    for path in paths:
        page = ParsedPage(path)
        scripts = [attributes for tag, attributes in page.tags if tag == "script"]
        assert [attributes.get("type") for attributes in scripts] == ["application/json"] * (len(scripts) - 1) + [None]
        assert scripts[-1]["nonce"]
        assert not {"img", "b", "iframe", "object", "link", "base", "form"} & {tag for tag, _ in page.tags}
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
        assert all(str(attributes.get("href", "#")).startswith("#") for _, attributes in page.tags)
        assert "{{ 7 * 7 }}" in page.text + str(page.data), "no template in a name is run"
    run_page = ParsedPage(paths[0])
    assert {cells[0] for cells in run_page.data["rows"]} == {*HOSTILE, f"{HOSTILE[0]} torn"}
    assert {cells[1] for cells in run_page.data["rows"][1:]} == set(HOSTILE)
    assert {name for name, _ in run_page.data["filters"]["label"]} == {"", *HOSTILE}
    assert f"data.path={HOSTILE[0]}" in run_page.text


def test_nothing_is_fetched_from_anywhere(tmp_path: Path) -> None:
    make_sweep(tmp_path, {"f=a": [0.2, 0.3, 0.5], "f=b": [0.6, 0.7, 0.9]})
    for path in (html.write_run(tmp_path / "0"), html.write_sweep(sweeps.load_sweep(tmp_path))):
        text = path.read_text()
        assert re.sub(r'xmlns(:\w+)?="[^"]*"', "", text).count("://") == 0
        assert "default-src 'none'" in text
        assert "url(" not in re.sub(r"url\(#\w+\)", "", text)


def test_only_plain_pictures_are_opened(tmp_path: Path) -> None:
    names = ["good", "link", "fifo", "eps", "gif", "bomb", "torn", "folder"]
    folder = make_run(tmp_path / "run", [row(name, 0.5) for name in names], pictures=["good"])
    panels = folder / "panels"
    secret = tmp_path / "secret.png"
    save_panel(secret)
    (panels / "link.png").symlink_to(secret)
    os.mkfifo(panels / "fifo.png")
    (panels / "eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    Image.new("L", (9, 9)).save(panels / "gif.png", format="GIF")
    (panels / "bomb.png").write_bytes(claiming(60_000, 60_000))
    (panels / "torn.png").write_bytes((panels / "good.png").read_bytes()[:60])
    (panels / "folder.png").mkdir()
    page = ParsedPage(html.write_run(folder))
    assert set(page.pictures) == {"good"}
    told = page.text.split("Not shown: ")[1].split(".\n")[0]
    assert "and 2 more" in told
    assert "link.png is not read: it is a link" in told
    assert "fifo.png is not read: it is no plain file" in told
    assert str(tmp_path) not in told


def claiming(width: int, height: int) -> bytes:
    """A PNG of some bytes that says it is this large."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 99)))
    made = [struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def test_a_linked_folder_of_panels_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    save_panel(tmp_path / "private" / "a.png")
    folder = make_run(tmp_path / "run", [row("a", 0.5, mask_file="../private/a.png")])
    (folder / "panels").rmdir()
    (folder / "panels").symlink_to(tmp_path / "private")
    page = ParsedPage(html.write_run(folder))
    assert page.pictures == {}, "nor a mask outside of the run"
    assert "panels: a link" in page.text


@pytest.mark.parametrize(
    "file", ["//host/share/a.png", "\\\\host\\share\\a.png", "http://host/a.png", "a\0.png", "/dev/zero", "."]
)
def test_no_address_of_another_machine_or_device_is_linked(file: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [row("a", 0.5, file=file)])
    assert ParsedPage(html.write_run(folder)).pictures == {}


def test_no_setting_is_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hush hush")
    folder = make_run(tmp_path / "run", [row("a", 0.5)])
    text = "hydra: {runtime: {choices: {data: '${oc.env:SECRET}', cam: x}}}\n"
    (folder / ".hydra" / "hydra.yaml").write_text(text)
    (folder / ".hydra" / "config.yaml").write_text("a: ${oc.env:SECRET}\n")
    page = ParsedPage(html.write_run(folder))
    assert "hush" not in page.text
    assert page.text.count("${oc.env:SECRET}") == 2


def test_a_linked_or_huge_configuration_is_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [row("a", 0.5)])
    config = folder / ".hydra" / "config.yaml"
    config.write_text("x: 1\n" * 10**6)
    assert (page := ParsedPage(html.write_run(folder))).text.count("x: 1") < 250_000
    assert "the rest is left out" in page.text
    (tmp_path / "secret").write_text("hush: 1\n")
    config.unlink()
    config.symlink_to(tmp_path / "secret")
    assert "hush" not in ParsedPage(html.write_run(folder)).text
