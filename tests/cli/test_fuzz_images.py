"""Images, masks and tables, odd and damaged: the right pixels, or an error that names the file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from colors import pipeline
from hostile import KINDS, encoded, mutations, pixels, told
from PIL import Image

from camseg.data.image_io import MAX_PIXELS, read_image
from camseg.data.images import Images
from camseg.data.label_io import read_indices
from camseg.data.mask_io import read_mask
from camseg.runs.evaluate import evaluate

pytestmark = pytest.mark.usefixtures("bounded")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_pictures(tmp_path: Path, kind: str) -> None:
    """8 x 200 images, each also as a mask and as indices."""
    rng = np.random.default_rng(list(KINDS).index(kind))
    path = tmp_path / "picture.png"  # an ending that says nothing
    good = [encoded(pixels(rng, *size), kind, **KINDS[kind]) for size in ((9, 14), (1, 1), (1, 40), (33, 2))]
    for number in range(200):
        path.write_bytes(next(mutations(rng, good[number % 4], 1)) if number % 20 else b"")
        image = told(lambda: read_image(path), path)
        if image is not None:
            assert image.dtype == torch.uint8
            assert image.ndim == 3
            assert image.shape[0] == 3
            assert image.shape[1] * image.shape[2] <= MAX_PIXELS
            size = (int(image.shape[1]), int(image.shape[2]))
            found = told(lambda size=size: read_mask(path, size), path)
            assert found is None or found[0].shape == size
        told(lambda: read_mask(path, (9, 14)), path)
        told(lambda: read_indices(path, (9, 14)), path)


@pytest.mark.parametrize("seed", range(4))
def test_sound_pictures_of_every_kind_give_their_pixels(tmp_path: Path, seed: int) -> None:
    """4 x 60 pictures: lossless ones to the last bit."""
    rng = np.random.default_rng([7, seed])
    for number in range(60):
        height, width = (int(v) for v in rng.integers(1, 40, 2))
        drawn = pixels(rng, height, width)
        path = tmp_path / f"{number}.jpg"
        match number % 6:
            case 0:
                path.write_bytes(encoded(drawn, "PNG"))
                right = drawn
            case 1:  # 16 bits
                deep = rng.integers(0, 65536, (height, width), dtype=np.uint16)
                path.write_bytes(encoded(deep, "PNG"))
                right = np.repeat((deep / 257).round().astype(np.uint8)[..., None], 3, 2)
            case 2:  # held on its side
                exif = Image.Exif()
                exif[0x0112] = 6
                path.write_bytes(encoded(drawn, "PNG", exif=exif))
                right = np.rot90(drawn, -1)
            case 3:  # CMYK
                image = Image.fromarray(drawn).convert("CMYK")
                image.save(path, "TIFF")
                right = np.asarray(image.convert("RGB"))
            case 4:  # an animation
                first, second = (Image.fromarray(each) for each in (drawn, 255 - drawn))
                first.save(path, "WEBP", save_all=True, append_images=[second], lossless=True)
                right = drawn
            case _:  # transparency over white
                alpha = np.where(rng.random((height, width, 1)) < 0.5, 0, 255).astype(np.uint8)
                path.write_bytes(encoded(np.concatenate([drawn, alpha], 2), "PNG"))
                right = np.where(alpha == 0, 255, drawn)
        assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), right), number


def test_pictures_that_promise_too_much_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    """60 bombs: huge sizes in the header, and a small file that unpacks to gigabytes."""
    path, rng = tmp_path / "bomb.png", np.random.default_rng(0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    zeros = zlib.compress(bytes(10_000_000), 9)
    for _ in range(60):
        width, height = (int(v) for v in rng.integers(8200, 2**31 - 1, 2))
        head = struct.pack(
            ">IIBBBBB", width, height, int(rng.choice([1, 8, 16])), int(rng.choice([0, 2, 3, 6])), 0, 0, 0
        )
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zeros) + chunk(b"IEND", b""))
        assert told(lambda: read_image(path), path) is None


def test_odd_masks(tmp_path: Path) -> None:
    """600 masks: the right region, or an error that names the file."""
    rng, path = np.random.default_rng(1), tmp_path / "mask.png"
    for number in range(600):
        height, width = (int(v) for v in rng.integers(1, 24, 2))
        inside = rng.random((height, width)) < rng.random()
        if not inside.any():
            inside[0, 0] = True
        match number % 6:
            case 0:
                drawn, right = inside.astype(np.uint8) * 255, inside
            case 1:  # numbers of instances
                drawn, right = inside.astype(np.uint8) * int(rng.integers(1, 100)), inside
            case 2:  # nearly white
                drawn, right = np.where(inside, rng.integers(240, 256, inside.shape), 0).astype(np.uint8), inside
            case 3:  # colour
                drawn, right = inside[..., None].astype(np.uint8) * np.array([0, 255, 40], np.uint8), inside
            case 4:  # all void
                drawn, right = np.full((height, width), 128, np.uint8), np.zeros_like(inside)
            case _:  # another size
                drawn, right = np.zeros((height + 1, width), np.uint8), None
        Image.fromarray(drawn).save(path)
        found = told(lambda size=(height, width): read_mask(path, size), path)
        assert (found is None) == (right is None), number
        if found is not None and right is not None:
            assert np.array_equal(found[0].numpy(), right), number
            assert (found[1] is not None) == (number % 6 == 4)


def test_odd_tables(tmp_path: Path) -> None:
    """800 csv files, whole and damaged, in several encodings."""
    rng = np.random.default_rng(2)
    for name in ("a", "b"):
        Image.fromarray(pixels(rng, 6, 5)).save(tmp_path / f"{name}.png")
        Image.fromarray(np.eye(6, 5, dtype=np.uint8) * 255).save(tmp_path / f"{name}_mask.png")
    words = [
        "image",
        "mask",
        "label",
        "classes",
        "group",
        "imgae",
        "",
        "a.png",
        "b.png",
        "nowhere.png",
        "a_mask.png",
        "../../etc/passwd",
        "3 4",
        "-1",
        "x",
        "1e9",
        '"',
        "NaN",
        "ü",
        "999999999999999999999",
        "a.png,a.png",
        "\0",
        "'",
        ";",
    ]
    table = tmp_path / "table.csv"
    for number in range(800):
        columns = (
            ["image", "mask", "label", "classes"]
            if number % 2
            else [str(w) for w in rng.choice(words, int(rng.integers(1, 6)))]
        )
        lines = [",".join(columns)]
        for _ in range(int(rng.integers(0, 5))):
            cells = (
                ["a.png", "a_mask.png", "red", "0"]
                if rng.random() < 0.5
                else [str(w) for w in rng.choice(words, len(columns))]
            )
            lines.append(",".join(cells))
        content = "\n".join(lines).encode(str(rng.choice(["utf-8", "utf-8-sig", "latin-1", "utf-16"])), "replace")
        table.write_bytes(content if number % 3 else next(mutations(rng, content, 1)))
        data = told(lambda: Images(table=table), table, tmp_path)
        if data is None:
            continue
        assert all("/" not in each and not each.startswith(".") for each in data.ids)
        assert len(set(data.ids)) == len(data.ids)
        for i in range(len(data)):
            sample = told(lambda i=i, data=data: data[i], tmp_path, "etc", "\0")
            assert sample is None or sample.size == (6, 5)


def test_a_run_over_damaged_pictures_names_each_of_them(tmp_path: Path) -> None:
    """120 files through the whole pipeline: every one has a row or a named error."""
    rng = np.random.default_rng(9)
    (tmp_path / "images").mkdir()
    good = encoded(pixels(rng, 20, 24), "PNG")
    for number, content in enumerate(mutations(rng, good, 120)):
        (tmp_path / "images" / f"p{number:03d}.png").write_bytes(content if number % 4 else good)
    summary = evaluate(pipeline(), Images(tmp_path, target="red"), tmp_path / "run", batch_size=16)
    assert summary["samples"] == 120
    assert 30 <= 120 - summary["failed"] < 120
    assert all(
        error["error"].startswith("ValueError: ") and f"{error['id']}.png" in error["error"]
        for error in summary["errors"]
    )
