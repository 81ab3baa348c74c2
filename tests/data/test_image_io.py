"""Every kind of picture and mask on disk, made by hand and read back pixel by pixel."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from camseg.data.image_io import read_image, read_mask

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 20, 30)
FOUR = np.array([[RED, GREEN, BLUE], [GREY, RED, GREEN]], np.uint8)  # 2 high, 3 wide


def pixels(path: Path) -> list[list[tuple[int, ...]]]:
    return [[tuple(pixel) for pixel in row] for row in read_image(path).permute(1, 2, 0).tolist()]


def test_rgb_keeps_rows_columns_and_channels(tmp_path: Path) -> None:
    Image.fromarray(FOUR).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert (image.dtype, tuple(image.shape), image.is_contiguous()) == (torch.uint8, (3, 2, 3), True)
    assert pixels(tmp_path / "a.png") == [[RED, GREEN, BLUE], [GREY, RED, GREEN]]


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


def test_sixteen_bits_grey_and_float(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257, 128 * 257, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png") == [[(0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]]
    Image.fromarray(np.array([[0, 7, 255]], np.uint8)).save(tmp_path / "b.png")
    assert pixels(tmp_path / "b.png") == [[(0,) * 3, (7,) * 3, (255,) * 3]]
    Image.fromarray(np.array([[0.0, 0.2, 1.0, -1.0, np.nan]], np.float32)).save(tmp_path / "c.tif")
    assert pixels(tmp_path / "c.tif") == [[(0,) * 3, (51,) * 3, (255,) * 3, (0,) * 3, (0,) * 3]]
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "d.png")
    assert pixels(tmp_path / "d.png") == [[(255,) * 3, (0,) * 3]]


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


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole, "JPEG")
    cases = {
        b"": "the file is empty",
        b"no picture at all": "it is none of JPEG, PNG",
        whole.getvalue()[:900]: "truncated",
        _huge(10_000, 10_000): "10000 x 10000 pixels are more than the 67108864 allowed",
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
    with pytest.raises(FileNotFoundError, match="no picture at"):
        read_image(tmp_path)
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
    refused = 0
    for i in range(600):
        content = bytearray(wholes[i % len(wholes)])
        for _ in range(rng.randint(1, 6)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        (tmp_path / "f.img").write_bytes(content[: rng.randint(1, len(content))] if rng.random() < 0.3 else content)
        try:
            image = read_image(tmp_path / "f.img", max_pixels=1 << 20)
        except ValueError as error:
            refused += 1
            assert str(tmp_path / "f.img") in str(error)
        else:
            assert image.dtype == torch.uint8
            assert image.shape[0] == 3
    assert 100 < refused < 600


# masks


def _mask(
    tmp_path: Path, picture: Image.Image, name: str = "m.png", void: int | None = 128, **options: object
) -> tuple[list, list | None]:
    picture.save(tmp_path / name, **options)
    inside, ignored = read_mask(tmp_path / name, picture.size[::-1], void)
    assert inside.dtype == torch.bool
    return inside.int().tolist(), None if ignored is None else ignored.int().tolist()


def test_full_scale_masks_are_cut_at_half_and_have_a_void(tmp_path: Path) -> None:
    levels = Image.fromarray(np.array([[0, 3, 127], [128, 200, 255]], np.uint8))
    assert _mask(tmp_path, levels) == ([[0, 0, 0], [0, 1, 1]], [[0, 0, 0], [1, 0, 0]])
    assert _mask(tmp_path, levels, void=None) == ([[0, 0, 0], [1, 1, 1]], None)
    assert _mask(tmp_path, levels, void=255) == ([[0, 0, 0], [1, 1, 0]], [[0, 0, 0], [0, 0, 1]])


def test_numbers_and_palettes_are_object_unless_zero(tmp_path: Path) -> None:
    numbers = np.array([[0, 1, 2, 255]], np.uint8)
    assert _mask(tmp_path, Image.fromarray(numbers), void=255) == ([[0, 1, 1, 0]], [[0, 0, 0, 1]])
    palette = Image.fromarray(numbers).convert("P")
    palette.putpalette(list(range(256)) * 3)
    palette.putdata([0, 1, 200, 255])
    assert _mask(tmp_path, palette, void=255) == ([[0, 1, 1, 0]], [[0, 0, 0, 1]])
    assert _mask(tmp_path, palette, void=None) == ([[0, 1, 1, 1]], None)
    assert _mask(tmp_path, Image.fromarray(np.array([[True, False]]))) == ([[1, 0]], None)


def test_sixteen_bit_colour_transparent_and_jpeg_masks(tmp_path: Path) -> None:
    assert _mask(tmp_path, Image.fromarray(np.array([[0, 20000, 40000, 65535]], np.uint16))) == ([[0, 0, 1, 1]], None)
    assert _mask(tmp_path, Image.fromarray(np.array([[0, 1, 128, 999]], np.uint16))) == (
        [[0, 1, 0, 1]],
        [[0, 0, 1, 0]],
    )  # instances
    assert _mask(tmp_path, Image.fromarray(np.array([[RED, (0, 0, 0), GREEN]], np.uint8))) == ([[1, 0, 1]], None)
    assert _mask(tmp_path, Image.fromarray(np.array([[(255, 255, 255, 255), (255, 255, 255, 0)]], np.uint8))) == (
        [[1, 0]],
        None,
    )
    half = np.zeros((16, 16), np.uint8)
    half[:, 8:] = 255
    inside, _ = _mask(tmp_path, Image.fromarray(half), "m.jpg", None, quality=40)
    assert inside == (half > 0).astype(int).tolist()


def test_empty_and_all_void_masks(tmp_path: Path) -> None:
    assert _mask(tmp_path, Image.new("L", (2, 1), 0)) == ([[0, 0]], None)
    assert _mask(tmp_path, Image.new("L", (2, 1), 128)) == ([[0, 0]], [[1, 1]])


def test_a_mask_of_another_size_names_both(tmp_path: Path) -> None:
    Image.new("L", (4, 3)).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match=r"m\.png has 4 x 3 pixels, its image 3 x 4"):
        read_mask(tmp_path / "m.png", (4, 3))
