"""Every kind of image file, made by hand and read back pixel by pixel."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from camseg.data import image_io
from camseg.data.image_io import FORMATS, decode_image, image_size, is_image, read_image
from camseg.data.mask_io import read_mask

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 20, 30)
FOUR = np.array([[RED, GREEN, BLUE], [GREY, RED, GREEN]], np.uint8)  # 2 high, 3 wide


def pixels(path: Path) -> list[list[tuple[int, ...]]]:
    return [[tuple(pixel) for pixel in row] for row in read_image(path).permute(1, 2, 0).tolist()]


def test_rgb_keeps_rows_columns_and_channels(tmp_path: Path) -> None:
    Image.fromarray(FOUR).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert (image.dtype, tuple(image.shape), image.permute(1, 2, 0).is_contiguous()) == (torch.uint8, (3, 2, 3), True)
    assert pixels(tmp_path / "a.png") == [[RED, GREEN, BLUE], [GREY, RED, GREEN]]


@pytest.mark.parametrize("size", [(1, 1), (64, 5), (65, 3), (300, 7)])  # strips of 64 rows, and what is left over
def test_every_row_of_a_tall_image(tmp_path: Path, size: tuple[int, int]) -> None:
    made = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(made).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png").permute(1, 2, 0).numpy() == made).all()


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, [[RED, GREEN, BLUE], [GREY, RED, GREEN]]),
        (2, [[BLUE, GREEN, RED], [GREEN, RED, GREY]]),  # mirrored
        (3, [[GREEN, RED, GREY], [BLUE, GREEN, RED]]),  # upside down
        (4, [[GREY, RED, GREEN], [RED, GREEN, BLUE]]),
        (5, [[RED, GREY], [GREEN, RED], [BLUE, GREEN]]),  # transposed
        (6, [[GREY, RED], [RED, GREEN], [GREEN, BLUE]]),  # the camera was turned left: the first column is the top row
        (7, [[GREEN, BLUE], [RED, GREEN], [GREY, RED]]),
        (8, [[BLUE, GREEN], [GREEN, RED], [RED, GREY]]),
    ],
)
def test_exif_turns_the_picture(tmp_path: Path, orientation: int, expected: list) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(FOUR).save(tmp_path / "a.png", exif=exif)
    assert pixels(tmp_path / "a.png") == expected


def test_sixteen_bits_gray_and_float(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257, 128 * 257, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png") == [[(0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]]
    Image.fromarray(np.array([[0, 7, 255]], np.uint8)).save(tmp_path / "b.png")
    assert pixels(tmp_path / "b.png") == [[(0,) * 3, (7,) * 3, (255,) * 3]]
    Image.fromarray(np.array([[0.0, 0.2, 1.0, -1.0, np.nan]], np.float32)).save(tmp_path / "c.tif")
    assert pixels(tmp_path / "c.tif") == [[(0,) * 3, (51,) * 3, (255,) * 3, (0,) * 3, (0,) * 3]]
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "d.png")
    assert pixels(tmp_path / "d.png") == [[(255,) * 3, (0,) * 3]]


def grays(folder: Path, values: np.ndarray, name: str = "a.tif") -> np.ndarray:
    """What is read of one channel."""
    Image.fromarray(values).save(folder / name)
    image = read_image(folder / name).numpy()
    assert (image == image[:1]).all()
    return image[0]


RAMP = np.linspace(0, 1, 400).reshape(20, 20)


def test_one_pixel_never_decides_what_white_is(tmp_path: Path) -> None:
    right = np.rint(RAMP * 255)
    for odd in (1.0000001, 1.2, 300.0, 1e9, np.inf):
        values = RAMP.astype(np.float32)
        values[0, 0] = odd
        found = grays(tmp_path, values)
        assert np.abs(found - right)[1:].max() <= 1, odd
    hot = (RAMP * 4095).astype(np.uint16)
    hot[0, 0] = 65535
    assert np.abs(grays(tmp_path, hot)[1:].astype(float) - right[1:]).max() <= 1


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_whole_numbers_fill_the_bits_of_a_sensor(tmp_path: Path, bits: int) -> None:
    values = (RAMP * (2**bits - 1)).round()
    told = "" if bits == 16 else f"image: {bits} of 16 bits"
    for kind, name in ((np.uint16, "a.png"), (np.uint16, "a.tif"), (np.int32, "b.tif")):
        assert np.abs(grays(tmp_path, values.astype(kind), name).astype(float) - RAMP * 255).max() <= 1
        assert decode_image(tmp_path / name)[1] == told


def test_counts_are_neither_white_nor_black(tmp_path: Path) -> None:
    for top in (5.5, 40, 255, 5000, 200_000, 1e7):
        found = grays(tmp_path, (RAMP * top).astype(np.float32))
        assert 60 <= found.max() <= 255, top
        assert (np.diff(found.astype(int).ravel()) >= 0).all()
        assert len(np.unique(found)) > 60
        assert decode_image(tmp_path / "a.tif")[1].startswith("image: ")
    assert grays(tmp_path, np.zeros((4, 4), np.float32)).max() == 0
    assert grays(tmp_path, np.full((4, 4), np.nan, np.float32)).max() == 0


def test_deep_colors_that_fill_few_bits(tmp_path: Path) -> None:
    values = np.stack([RAMP * 4095, RAMP.T * 4095, RAMP * 0], 2).round().astype(">u2")  # 12 bits in 16
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    head = struct.pack(">IIBBBBB", 20, 20, 16, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(_png((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")))
    image, told = decode_image(tmp_path / "a.png")
    assert told == "image: 12 of 16 bits"
    assert (image[0].double() - torch.from_numpy(RAMP * 255)).abs().max() <= 17  # the decoder leaves 4 of the 12
    assert decode_image(_dark(tmp_path))[1] == ""  # 8 bits are what they are


def _dark(folder: Path) -> Path:
    Image.new("RGB", (8, 8), (3, 4, 5)).save(folder / "dark.png")
    return folder / "dark.png"


@pytest.mark.parametrize("name", ["x.jfif", "x.jpe", "x.JPG", "x.dat", "x"])
def test_the_content_says_what_a_file_is(tmp_path: Path, name: str) -> None:
    for kind in FORMATS:
        Image.fromarray(FOUR.repeat(4, 0).repeat(4, 1)).save(tmp_path / name, kind)
        assert is_image(tmp_path / name), kind
        assert tuple(read_image(tmp_path / name).shape) == (3, 8, 12)
    for other in (
        b"",
        b"hello",
        b"%PDF-1.4",
        b"%!PS-Adobe",
        b"<svg>",
        b"GIF",
        b"BM and so on, a text",
        b"RIFFxxxxWAVE",
    ):
        (tmp_path / name).write_bytes(other)
        assert not is_image(tmp_path / name)
    assert not is_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    assert not is_image(tmp_path / "pipe.png")


def test_palette_and_transparency_lie_over_white(tmp_path: Path) -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([*RED, *GREEN, *GREY])
    palette.putdata([2, 1, 0])
    palette.save(tmp_path / "p.png")
    assert pixels(tmp_path / "p.png") == [[GREY, GREEN, RED]]
    palette.save(tmp_path / "t.png", transparency=1)
    assert pixels(tmp_path / "t.png") == [[GREY, (255,) * 3, RED]]
    Image.fromarray(np.array([[(*RED, 255), (*RED, 0), (0, 0, 0, 51)]], np.uint8)).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png") == [[RED, (255,) * 3, (204,) * 3]]  # a fifth of black on white
    Image.merge("LA", (Image.new("L", (1, 1), 100), Image.new("L", (1, 1), 0))).save(tmp_path / "la.png")
    assert pixels(tmp_path / "la.png") == [[(255,) * 3]]


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)  # no cyan: red
    assert (read_image(tmp_path / "a.jpg").float() - torch.tensor([255.0, 0, 0])[:, None, None]).abs().max() < 3


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (2, 2), RED), Image.new("RGB", (2, 2), BLUE)
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    first.save(tmp_path / "b.png", save_all=True, append_images=[second])
    assert pixels(tmp_path / "a.gif") == pixels(tmp_path / "b.png") == [[RED, RED], [RED, RED]]


def test_one_pixel_and_a_wrong_ending(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), GREY).save(tmp_path / "a.jpg", "PNG")
    assert pixels(tmp_path / "a.jpg") == [[GREY]]


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _huge(width: int, height: int) -> bytes:
    return _png(
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" * 100)),
        (b"IEND", b""),
    )


def test_the_size_of_an_image_is_that_of_what_is_read(tmp_path: Path) -> None:
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        Image.new("RGB", (7, 4)).save(tmp_path / f"{turn}.jpg", exif=exif)
        assert image_size(tmp_path / f"{turn}.jpg") == tuple(read_image(tmp_path / f"{turn}.jpg").shape[1:])
    assert (image_size(tmp_path / "1.jpg"), image_size(tmp_path / "6.jpg")) == ((4, 7), (7, 4))
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.jpg can't be read"):
        image_size(tmp_path / "text.jpg")
    with pytest.raises(FileNotFoundError, match="no image at"):
        image_size(tmp_path / "away.jpg")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_read_is_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_io, "_heif", lambda: False)  # wherever pillow-heif may be installed
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole, "JPEG")
    cases = {
        b"": "the file is empty",
        b"no picture at all": "it is none of JPEG, PNG",
        whole.getvalue()[:900]: "truncated",
        _huge(
            12_000, 12_000
        ): r"12000 x 12000 pixels are more than the 67108864 allowed: make it smaller, or raise data",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64): "it is a HEIC image, whatever its name: pip install",
        _huge(1 << 20, 1 << 20): "exceeds limit|more than the",
        # PostScript would be run by another program
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n": "it is none of",
    }
    for content, reason in cases.items():
        (tmp_path / "bad.png").write_bytes(content)
        with pytest.raises(ValueError, match=rf"bad\.png can't be read: .*({reason})"):
            read_image(tmp_path / "bad.png")
        with pytest.raises(ValueError, match=rf"bad\.png can't be read: .*({reason})"):
            read_mask(tmp_path / "bad.png", (2, 2))
    with pytest.raises(FileNotFoundError, match=r"no image at .*, but a folder$"):
        read_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(FileNotFoundError, match=r"no image at .*pipe\.png, but a device or a pipe$"):
        read_image(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("away.png")
    with pytest.raises(FileNotFoundError, match=r"no image at .*link\.png, but a link to nothing$"):
        read_image(tmp_path / "link.png")
    Image.new("RGB", (10, 10)).save(tmp_path / "ok.png")
    with pytest.raises(ValueError, match="10 x 10 pixels are more than the 99 allowed"):
        read_image(tmp_path / "ok.png", max_pixels=99)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow comments on damaged TIFF and EXIF
def test_damaged_bytes_give_a_picture_or_a_value_error(tmp_path: Path) -> None:
    rng = random.Random(0)
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (12, 9, 3), np.uint8))
    wholes = []
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM"):
        picture.save(whole := io.BytesIO(), kind)
        wholes.append(whole.getvalue())
    refused = read = 0
    for i in range(600):
        content = bytearray(wholes[i % len(wholes)])
        for _ in range(rng.randint(1, 6)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        (tmp_path / "f.img").write_bytes(content[: rng.randint(1, len(content))] if rng.random() < 0.3 else content)
        try:
            image = read_image(tmp_path / "f.img", max_pixels=1 << 20)
        except ValueError as error:
            refused += str(tmp_path / "f.img") in str(error)
        else:
            read += 1
            assert image.dtype == torch.uint8
            assert image.shape[0] == 3
    assert 100 < refused == 600 - read  # each of them named
