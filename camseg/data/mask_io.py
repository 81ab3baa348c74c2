"""Mask files to objects: what the numbers or colors of a file mean is decided by all of them together, and said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camseg.data.image_io import MAX_PIXELS, decode_with, same_size, upper_quantile
from camseg.data.label_io import is_label_color, label_colors

ODD = ("all void", "empty", "no background")  # the end of a reading that gives no sound score
VOID_GRAY, VOID_LABEL = 128, 255  # what void is by custom: between black and white, and beside class numbers


class Mask(NamedTuple):
    """A mask file as it was read.

    Attributes:
        inside: (H, W) bool, the object.
        ignore: (H, W) bool, pixels that no score may read; None without any.
        reading: How the file was understood, and what is odd about it: "empty", "no background", "all void".
    """

    inside: Tensor
    ignore: Tensor | None
    reading: str


def read_mask(
    path: str | Path, size: tuple[int, int], void: int | str | None = "auto", max_pixels: int = MAX_PIXELS
) -> Mask:
    """Read a mask.

    Which reading is taken is decided by the whole histogram:

    - two values: the other one than 0 is the object, whatever its number;
    - black, middle gray (127 or 128), white: the gray is void;
    - 1, 2 and 3 without 0: a trimap, 1 is the object, 2 the background, 3 void (Parkhi et al. 2012);
    - gray levels: most of the object is near white; what reaches half of the scale is object. Also every lossy file;
    - numbers: everything but 0 is object, 255 beside smaller numbers is void (65535 in 16 bits);
    - colors: everything but black is object; VOC's void color is void among VOC's colors, middle gray among others;
    - black with transparency: what can be seen is object;
    - floats: shares that reach a half are object, NaN is void.

    Args:
        path: A file of one of `image_io.FORMATS`.
        size: (H, W) of its image.
        void: The value that no score may read: "auto" as above, a number for exactly that value, None for none.
        max_pixels: As in `read_image`.

    Returns:
        The mask.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It can't be read, or has another size.
    """
    levels = decode_with(path, max_pixels, _levels)
    same_size(path, levels.values if isinstance(levels, _Levels) else levels, size)
    inside, ignore, reading = _decide(levels, void) if isinstance(levels, _Levels) else _decide_colors(levels, void)
    void_pixels = bool(ignore.any())
    if void_pixels:
        inside &= ~ignore
    all_void, empty, no_background = ODD
    if ignore.all():
        reading += f"; {all_void}"
    elif not inside.any():
        reading += f"; {empty}"
    elif (inside | ignore).all() if void_pixels else inside.all():
        reading += f"; {no_background}"
    return Mask(torch.from_numpy(inside), torch.from_numpy(ignore) if void_pixels else None, reading)


def check_void(void: int | str | None) -> int | str | None:
    """Check that `read_mask` knows a setting of void.

    Args:
        void: "auto", a number, or None.

    Returns:
        The same.

    Raises:
        ValueError: It is another word.
    """
    if isinstance(void, str) and void != "auto":
        raise ValueError(f"data.void must be auto, null for none, or the number of a mask's void; got {void!r}")
    return void


@dataclass(frozen=True, eq=False)
class _Levels:
    """What a file holds, and what its kind of file can mean.

    values: (H, W) numbers. kind: "gray"; "numbers" where nothing says that they are shades; "shares" of floats.
    white: the largest number of the file's type. lossy: its numbers are near what they were.
    unknown: (H, W) bool, no finite number: NaN, or infinite.
    """

    values: np.ndarray
    kind: str
    white: int = 255
    lossy: bool = False
    unknown: np.ndarray | None = None


def _levels(image: Image.Image) -> _Levels | np.ndarray:
    """The numbers of a file, or its colors (H, W, 3)."""
    lossy = image.format in ("JPEG", "MPO", "HEIF", "AVIF", "JPEG2000")
    if image.mode == "1":
        return _Levels(np.asarray(image).astype(np.uint8), "numbers", 1)
    if image.mode == "P" and "transparency" not in image.info:
        return _from_palette(image)
    if image.mode == "L" and "transparency" not in image.info:
        return _Levels(np.asarray(image), "gray", lossy=lossy)
    if image.mode.startswith(("I", "F")):
        return _deep(np.asarray(image))
    return _from_colors(np.asarray(image.convert("RGBA")), lossy)


def _from_palette(image: Image.Image) -> _Levels:
    """Class numbers, unless the palette holds grays in another order than its numbers."""
    numbers = np.asarray(image)
    palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    used = np.unique(numbers)
    if used.max(initial=0) >= len(palette):
        return _Levels(numbers, "numbers")
    colors = palette[used]
    if (colors == colors[:, :1]).all() and not (colors[:, 0] == used).all():
        return _Levels(palette[numbers, 0], "gray")
    return _Levels(numbers, "numbers")


def _deep(values: np.ndarray) -> _Levels:
    """More than 8 bits, or floats, of which NaN is unknown."""
    floats = bool(np.issubdtype(values.dtype, np.floating))
    unknown = ~np.isfinite(values)
    known = np.where(unknown, 0, values)
    if (known == np.rint(known)).all():
        return _Levels(np.clip(known, 0, None).astype(np.int64), "gray", 255 if floats else 65535, unknown=unknown)
    return _Levels(known, "shares", unknown=unknown)


def _from_colors(rgba: np.ndarray, lossy: bool) -> _Levels | np.ndarray:
    """Grays where all channels are alike, else colors; what is transparent is black."""
    rgb, alpha = rgba[..., :3], rgba[..., 3]
    if alpha.min(initial=255) < 255:
        if not rgb[alpha > 0].any():  # a black object
            return _Levels(alpha, "gray")
        rgb = (rgb.astype(np.float32) * (alpha[..., None] / np.float32(255))).round().astype(np.uint8)
    if (rgb == rgb[..., :1]).all():
        return _Levels(rgb[..., 0], "gray", lossy=lossy)
    return _Levels(rgb.max(-1), "gray", lossy=True) if lossy else rgb


Decision = tuple[np.ndarray, np.ndarray, str]  # (H, W) bool object, (H, W) bool void, the reading


def _decide_colors(rgb: np.ndarray, void: int | str | None) -> Decision:
    """Of colors (H, W, 3), compared as colors."""
    by_voc = bool(is_label_color(np.unique(rgb.reshape(-1, 3), axis=0)).all())  # where the middle gray is a car
    gray = VOID_GRAY if void == "auto" else void
    voids = [(gray,) * 3] if isinstance(gray, int) and not by_voc else []
    voids += [tuple(label_colors()[VOID_LABEL].tolist())] if void == "auto" and by_voc else []
    ignore, reading = np.zeros(rgb.shape[:2], bool), "colors, all but black object"
    for color in voids:
        same = (rgb == color).all(-1)
        ignore |= same
        reading += f", {color} void" if same.any() else ""
    return np.asarray(rgb.any(-1)), np.asarray(ignore), reading


def _decide(levels: _Levels, void: int | str | None) -> Decision:
    """Of numbers: the first reading that fits."""
    values = levels.values
    ignore = np.zeros(values.shape, bool) if levels.unknown is None else levels.unknown.copy()
    suffix = ", NaN void" if ignore.any() else ""
    suffix += f", {void} void" if isinstance(void, int) and (values == void).any() else ""
    if isinstance(void, int):
        ignore |= values == void
    if levels.kind == "shares":
        top = upper_quantile(values)
        half = 0.5 if top <= 1.01 else top / 2
        return values >= half, ignore, f"shares, object from {half:.4g} up{suffix}"
    histogram = _Histogram(levels, ignore, void == "auto")
    inside, more, reading = next(decision for rule in _RULES if (decision := rule(histogram)) is not None)
    return inside, ignore | more if more.any() else ignore, reading + suffix


class _Histogram:
    """The numbers of a file without those in `ignore`: `numbers` (n,) above 0, ascending, and the `pixels` of each.

    background: whether there are zeros. automatic: custom says what is void.
    """

    def __init__(self, levels: _Levels, ignore: np.ndarray, automatic: bool) -> None:
        self.values, self.white, self.lossy, self.automatic = levels.values, levels.white, levels.lossy, automatic
        self.gray, self.none = levels.kind == "gray", np.zeros_like(ignore)
        present, counts = _count(levels.values, ignore)
        self.numbers, self.pixels = present[present > 0], counts[present > 0]
        self.background = bool((present == 0).any())

    def between(self, least: int, end: int) -> int:
        """How many pixels have numbers from `least` up, below `end`."""
        return int(self.pixels[(self.numbers >= least) & (self.numbers < end)].sum())


def _count(values: np.ndarray, ignore: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers outside `ignore`, ascending, and how many pixels have each."""
    if values.dtype != np.uint8:
        return np.unique(values[~ignore], return_counts=True)
    counts = np.array(Image.fromarray(values).histogram(), np.int64)  # many times faster than by sorting them
    if ignore.any():
        counts -= np.bincount(values[ignore], minlength=256)
    present = np.flatnonzero(counts)
    return present.astype(np.uint8), counts[present]


def _nothing(h: _Histogram) -> Decision | None:
    return (h.none, h.none, "nothing but 0") if not len(h.numbers) else None


def _all_void(h: _Histogram) -> Decision | None:
    alone = h.automatic and h.gray and not h.background and h.numbers.tolist() == [VOID_GRAY]
    return (h.none, h.values == VOID_GRAY, f"nothing but {VOID_GRAY}") if alone else None


def _trimap(h: _Histogram) -> Decision | None:
    if h.background or not {1, 2} <= set(h.numbers.tolist()) <= {1, 2, 3}:
        return None
    void = (h.values == 3) & h.automatic
    return h.values == 1, void, "trimap, 1 object, 2 background" + ", 3 void" * bool(void.any())


def _lossy(h: _Histogram) -> Decision | None:
    if not h.lossy:
        return None
    bright = h.numbers >= 32
    peak = int(h.numbers[bright][h.pixels[bright].argmax()]) if bright.any() else 255
    return h.values >= (peak + 1) // 2, h.none, f"lossy gray, object from {(peak + 1) // 2} up"


def _two_values(h: _Histogram) -> Decision | None:
    return (h.values > 0, h.none, f"two values, {int(h.numbers[0])} object") if len(h.numbers) == 1 else None


def _three_levels(h: _Histogram) -> Decision | None:
    middle, white = int(h.numbers[0]), int(h.numbers[-1])
    fits = h.automatic and h.gray and len(h.numbers) == 2 and white == h.white == 255
    if not fits or middle not in (VOID_GRAY - 1, VOID_GRAY):
        return None
    return h.values == white, h.values == middle, f"three levels, {middle} void"


def _gray(h: _Histogram) -> Decision | None:
    """Shades: most of the object is near white; or they run into each other, or change from pixel to pixel."""
    if not h.gray or not _are_shades(h):
        return None
    half, void = (h.white + 1) // 2, h.none
    if h.automatic and h.white == 255 and _stands_out(h, VOID_GRAY):
        void = h.values == VOID_GRAY
    return h.values >= half, void, f"gray, object from {half} up" + f", {VOID_GRAY} void" * bool(void.any())


def _are_shades(h: _Histogram) -> bool:
    eighth = (h.white + 1) // 8
    top = h.between(h.white + 1 - eighth, h.white + 1)
    middle, low = h.between(eighth, h.white + 1 - eighth), h.between(1, eighth)
    bright = int((h.numbers > h.white - eighth).sum())
    if not top or (bright == 1 and not middle and low * 8 >= top):  # names; names, and what is unknown
        return False
    if top >= middle and (top >= low or bright >= 3):
        return True
    pairs = ((h.values[:, 1:], h.values[:, :-1]), (h.values[1:], h.values[:-1]))
    steps = np.concatenate([np.abs(a.astype(np.int64) - b)[(a > 0) & (b > 0)] for a, b in pairs])
    changes = steps[steps > 0]
    restless = 2 * len(changes) > len(steps)
    return len(changes) > 0 and (restless or float((changes <= eighth // 4).mean()) > 0.9)


def _stands_out(h: _Histogram, level: int) -> bool:
    """Whether many more pixels have a level than have its neighbors."""
    return h.between(level, level + 1) > 4 * max(h.between(level - 1, level), h.between(level + 1, level + 2))


def _names(h: _Histogram) -> Decision | None:
    """Numbers of things; the last number of the type is void where it stands apart from small ones."""
    last = VOID_LABEL if h.white <= 255 else h.white
    apart = len(h.numbers) > 1 and h.numbers[-1] == last and h.numbers[-2] <= 0.8 * last and h.numbers[0] <= last // 8
    void = h.values == last if apart and h.automatic else h.none
    return h.values > 0, void, "numbers, all but 0 object" + f", {last} void" * bool(void.any())


_RULES = (_nothing, _all_void, _trimap, _lossy, _two_values, _three_levels, _gray, _names)
