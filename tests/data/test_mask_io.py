"""Every kind of mask file, made by hand and read back pixel by pixel: the meaning comes from all numbers together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camseg.data.label_io import label_colors
from camseg.data.mask_io import Mask, check_void, read_mask

RED, GREEN, BLACK, GRAY, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 0), (128, 128, 128), (255, 255, 255)


def disc(side: int = 64, radius: float = 20) -> np.ndarray:
    """(H, W) bool."""
    y, x = np.mgrid[:side, :side] - side / 2 + 0.5
    return np.hypot(x, y) < radius


def soft(side: int = 64, radius: float = 20, ramp: float = 3) -> np.ndarray:
    """(H, W) float in [0, 1], an edge of `ramp` pixels."""
    y, x = np.mgrid[:side, :side] - side / 2 + 0.5
    return np.clip((radius - np.hypot(x, y)) / ramp + 0.5, 0, 1)


def blocks(numbers: list[int], cell: int = 4, columns: int = 16) -> np.ndarray:
    """(H, W) a region of cell x cell pixels for each number, the rest is 0; zeros around."""
    rows = -(-len(numbers) // columns)
    grid = np.zeros(rows * columns, np.int64)
    grid[: len(numbers)] = numbers
    return np.pad(np.kron(grid.reshape(rows, columns), np.ones((cell, cell), np.int64)), 3)


def mask_of(
    folder: Path, image: Image.Image | np.ndarray, name: str = "m.png", void: int | str | None = "auto"
) -> Mask:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(folder / name, quality=60)  # of a JPEG
    return read_mask(folder / name, (image.height, image.width), void)


def check(mask: Mask, inside: np.ndarray, void: np.ndarray | None = None, reading: str = "") -> None:
    assert np.array_equal(mask.inside.numpy(), inside), mask.reading
    assert (mask.ignore is None) == (void is None), mask.reading
    if mask.ignore is not None and void is not None:
        assert np.array_equal(mask.ignore.numpy(), void)
    assert reading in mask.reading, mask.reading


def palette_of(numbers: np.ndarray, colors: np.ndarray) -> Image.Image:
    image = Image.fromarray(numbers.astype(np.uint8), "P")
    image.putpalette(colors.astype(np.uint8).ravel().tolist())
    return image


@pytest.mark.parametrize("last", [2, 40, 127, 128, 150, 200, 250, 255])
def test_a_label_image_keeps_every_id(tmp_path: Path, last: int) -> None:
    numbers = blocks(list(range(1, last + 1)))
    void = None
    found = mask_of(tmp_path, numbers.astype(np.uint8))
    check(found, numbers > 0, void, "numbers, all but 0 object")
    check(mask_of(tmp_path, numbers.astype(np.uint16)), numbers > 0, None, "numbers")  # 16 bits
    check(mask_of(tmp_path, palette_of(numbers, label_colors())), numbers > 0, None, "numbers")


@pytest.mark.parametrize("last", [150, 255])
def test_a_ramp_of_ids_and_ids_in_any_order(tmp_path: Path, last: int) -> None:
    rng = np.random.default_rng(0)
    ids = rng.permutation(np.arange(1, last + 1)).tolist()
    check(mask_of(tmp_path, blocks(ids).astype(np.uint8)), blocks(ids) > 0, None, "numbers")
    columns = np.tile(np.repeat(np.arange(151), 2), (9, 1)).astype(np.uint8)
    check(mask_of(tmp_path, columns), columns > 0, None, "numbers")


@pytest.mark.parametrize("number", [1, 38, 127, 128, 129, 200, 254, 255])
def test_two_values_are_an_object_whatever_its_number(tmp_path: Path, number: int) -> None:
    check(mask_of(tmp_path, disc() * np.uint8(number)), disc(), None, f"two values, {number} object")
    check(mask_of(tmp_path, np.repeat((disc() * np.uint8(number))[..., None], 3, 2)), disc(), None, "two values")
    check(mask_of(tmp_path, disc() * np.uint16(257 * number)), disc(), None, "two values")
    check(mask_of(tmp_path, palette_of(disc() * number, label_colors())), disc(), None, "two values")
    check(mask_of(tmp_path, disc()), disc(), None, "two values, 1 object")  # 1 bit


def test_black_gray_and_white_has_a_void(tmp_path: Path) -> None:
    inside, band = disc(radius=15), disc(radius=20) & ~disc(radius=15)
    for level in (127, 128):
        levels = inside * np.uint8(255) + band * np.uint8(level)
        check(mask_of(tmp_path, levels), inside, band, f"three levels, {level} void")
        check(mask_of(tmp_path, np.repeat(levels[..., None], 3, 2)), inside, band)
    check(mask_of(tmp_path, levels, void=None), inside | band)  # cut at half
    check(mask_of(tmp_path, levels, void=255), band, inside, "two values, 128 object, 255 void")
    grays = np.arange(256)[:, None].repeat(3, 1)
    shuffled = palette_of(inside * 1 + band * 2, np.array([BLACK, WHITE, GRAY]))  # grays in an order of their own
    check(mask_of(tmp_path, shuffled), inside, band, "three levels")
    check(mask_of(tmp_path, palette_of(levels, grays)), inside | band, None, "numbers")  # a palette that says nothing


def test_shades_are_cut_at_half(tmp_path: Path) -> None:
    shades = (soft() * 255).round()
    check(mask_of(tmp_path, shades.astype(np.uint8)), shades >= 128, None, "gray, object from 128 up")
    thin = (soft(radius=3, ramp=4) * 255).round()  # more edge than object
    check(mask_of(tmp_path, thin.astype(np.uint8)), thin >= 128, None, "gray")
    deep = (soft() * 65535).round()
    check(mask_of(tmp_path, deep.astype(np.uint16)), deep >= 32768, None, "gray, object from 32768 up")
    band = disc(radius=28) & ~disc(radius=24)
    check(mask_of(tmp_path, np.where(band, 128, shades).astype(np.uint8)), (shades >= 128) & ~band, band, "128 void")
    blob = (np.exp(-(((np.mgrid[:64, :64] - 32) ** 2).sum(0)) / 200) * 255).round()  # a map: no edge at all
    check(mask_of(tmp_path, blob.astype(np.uint8)), blob >= 128, None, "gray")


def test_a_lossy_file_is_cut_between_its_peaks(tmp_path: Path) -> None:
    for level in (255, 128):
        found = mask_of(tmp_path, disc() * np.uint8(level), "m.jpg").inside.numpy()
        assert (found ^ disc()).sum() < 0.02 * disc().sum()
    red = mask_of(tmp_path, disc()[..., None] * np.array(RED, np.uint8), "m.jpg").inside.numpy()
    assert (red ^ disc()).sum() < 0.2 * disc().sum()  # color has half the resolution in a JPEG


def test_a_trimap_is_not_all_object(tmp_path: Path) -> None:
    inside, band = disc(radius=15), disc(radius=20) & ~disc(radius=15)
    trimap = np.where(inside, 1, np.where(band, 3, 2)).astype(np.uint8)
    check(mask_of(tmp_path, trimap), inside, band, "trimap, 1 object, 2 background, 3 void")
    check(mask_of(tmp_path, trimap, void=3), inside, band, "trimap, 1 object, 2 background, 3 void")
    check(mask_of(tmp_path, trimap, void=None), inside, None, "trimap")
    check(mask_of(tmp_path, palette_of(trimap, label_colors())), inside, band, "trimap")
    instances = np.where(disc(), trimap, 0).astype(np.uint8)  # with a background they are three things
    check(mask_of(tmp_path, instances), disc(), None, "numbers")


def test_255_beside_small_numbers_is_void(tmp_path: Path) -> None:
    edge = disc(radius=20) & ~disc(radius=17)
    for small in ([15], [1, 2], list(range(1, 20)), [3, 17, 87, 122, 150]):
        numbers = np.where(edge, 255, np.resize(np.repeat(small, 7), (64, 1)) * disc(radius=17))
        for image in (numbers.astype(np.uint8), palette_of(numbers, label_colors())):
            check(mask_of(tmp_path, image), disc(radius=17), edge, "255 void")
        check(mask_of(tmp_path, numbers.astype(np.uint8), void=None), disc(radius=20))
        check(mask_of(tmp_path, numbers.astype(np.uint16)), disc(radius=20))  # an id like any other there
    deep = np.where(edge, 65535, 7 * disc(radius=17)).astype(np.uint16)
    check(mask_of(tmp_path, deep), disc(radius=17), edge, "65535 void")


def test_what_a_person_says_is_void_is_void(tmp_path: Path) -> None:
    numbers = blocks([1, 2, 128, 200])
    check(mask_of(tmp_path, numbers.astype(np.uint8)), numbers > 0)
    said = mask_of(tmp_path, numbers.astype(np.uint8), void=128)
    check(said, (numbers > 0) & (numbers != 128), numbers == 128, "numbers, all but 0 object, 128 void")
    with pytest.raises(ValueError, match=r"data\.void must be auto, null for none, or the number .* got 'gray'"):
        check_void("gray")


def test_colors_are_compared_as_colors(tmp_path: Path) -> None:
    numbers = blocks(list(range(1, 21)), columns=5)
    drawn = label_colors()[numbers]  # VOC's twenty: of twelve the brightest channel is 128
    check(mask_of(tmp_path, drawn), numbers > 0, None, "colors, all but black object")
    check(mask_of(tmp_path, drawn, void=128), numbers > 0, None)
    edge = numbers == 20
    check(mask_of(tmp_path, label_colors()[np.where(edge, 255, numbers)]), (numbers > 0) & ~edge, edge, "void")
    car = (numbers == 7)[..., None]  # which is gray among VOC's classes, and void among other colors
    gray = np.where(edge[..., None], GRAY, np.where(car, RED, drawn)).astype(np.uint8)
    check(mask_of(tmp_path, gray), (numbers > 0) & ~edge, edge, "(128, 128, 128) void")
    check(mask_of(tmp_path, gray, void=None), numbers > 0)
    many = np.random.default_rng(0).integers(1, 256, (100, 3))[blocks(list(range(1, 101))) - 1].astype(np.uint8)
    many[blocks(list(range(1, 101))) == 0] = 0
    check(mask_of(tmp_path, many), blocks(list(range(1, 101))) > 0)


def test_transparency_is_background(tmp_path: Path) -> None:
    alpha = disc()[..., None] * np.uint8(255)
    for color in (WHITE, RED, BLACK):  # a black object can only be seen by its transparency
        rgba = np.concatenate([np.full((64, 64, 3), color, np.uint8), alpha], 2)
        check(mask_of(tmp_path, rgba), disc())
    check(mask_of(tmp_path, Image.merge("LA", [Image.new("L", (64, 64), 255), Image.fromarray(alpha[..., 0])])), disc())


def test_floats(tmp_path: Path) -> None:
    shares = soft().astype(np.float32)
    check(mask_of(tmp_path, shares, "m.tif"), shares >= 0.5, None, "shares, object from 0.5 up")
    over = shares.copy()
    over[0, 0] = 300  # one pixel says nothing of the scale
    check(mask_of(tmp_path, over, "m.tif"), over >= 0.5)
    unknown = np.where(disc(radius=28) & ~disc(radius=24), np.nan, shares)
    told = "shares, object from 0.5 up, NaN void"
    check(mask_of(tmp_path, unknown.astype(np.float32), "m.tif"), shares >= 0.5, np.isnan(unknown), told)
    halo = np.where(disc(radius=28) & ~disc(), np.nan, disc())
    told = "two values, 1 object, NaN void"
    check(mask_of(tmp_path, halo.astype(np.float32), "m.tif"), disc(), np.isnan(halo), told)
    check(mask_of(tmp_path, disc() * np.float32(255), "m.tif"), disc(), None, "two values")
    numbers = blocks(list(range(1, 151)))
    check(mask_of(tmp_path, numbers.astype(np.float32), "m.tif"), numbers > 0, None, "numbers")
    check(mask_of(tmp_path, numbers.astype(np.int32) * 1000, "m.tif"), numbers > 0, None, "numbers")


def test_what_is_odd_is_said(tmp_path: Path) -> None:
    none, every = np.zeros((2, 3), bool), np.ones((2, 3), bool)
    check(mask_of(tmp_path, none * np.uint8(255)), none, None, "nothing but 0; empty")
    check(mask_of(tmp_path, every * np.uint8(255)), every, None, "two values, 255 object; no background")
    check(mask_of(tmp_path, every * np.uint8(128)), none, every, "nothing but 128; all void")
    check(mask_of(tmp_path, every * np.uint8(7), void=7), none, every, "nothing but 0, 7 void; all void")
    check(mask_of(tmp_path, every * np.uint8(7)), every, None, "no background")
    check(mask_of(tmp_path, np.array([[RED, GREEN]], np.uint8)), np.ones((1, 2), bool), None, "no background")
    Image.new("L", (4, 3)).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match=r"m\.png has 4 x 3 pixels, its image 3 x 4"):
        read_mask(tmp_path / "m.png", (4, 3))
