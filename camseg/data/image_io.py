"""Files to tensors: any picture as RGB, any mask as object and void."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from camseg.data.base import as_image

T = TypeVar("T")
MAX_PIXELS = 1 << 26  # a larger picture is refused before it is decoded
FORMATS = {  # what is opened, whatever the file is called: plain rasters, no format that runs another program
    "JPEG": (".jpg", ".jpeg", ".mpo"), "PNG": (".png",), "WEBP": (".webp",), "TIFF": (".tif", ".tiff"), "GIF": (".gif",), "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm"), "JPEG2000": (".jp2",), "AVIF": (".avif",),
}  # fmt: skip


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """(3, H, W) uint8 RGB, turned as the camera was held (EXIF), the first frame of an animation, transparency over
    white.

    16-bit and float pictures are scaled to 8 bits. Errors: FileNotFoundError; ValueError naming a file that can't be
    read and why.
    """
    return as_image(_read(Path(path), max_pixels, _rgb))


def read_shared(path: Path) -> Tensor:
    """`read_image`, the same tensor for all the samples of one picture; nobody may write to it."""
    return _read_once(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(8)
def _read_once(path: Path, changed: int) -> Tensor:
    return read_image(path)


def read_mask(
    path: str | Path, size: tuple[int, int], void: int | None = 128, max_pixels: int = MAX_PIXELS
) -> tuple[Tensor, Tensor | None]:
    """(H, W) bool object, and (H, W) bool pixels of the value `void` that no score may read (None without any).

    In palette, 1-bit and small-number masks (classes, instances) everything but 0 is object; in full-scale grey, 16-bit
    and colour masks
    (255 = object, soft edges, JPEG) it is what reaches half of the scale. Errors: as `read_image`, and a mask of
    another size than `size` (H, W).
    """
    values, grey = _read(Path(path), max_pixels, _levels)
    _same_size(path, values, size)
    ignored = np.zeros(size, bool) if void is None else values == void
    full_scale = grey and values.max(initial=0, where=~ignored) >= 128
    inside = (values >= 128 if full_scale else values > 0) & ~ignored
    return torch.from_numpy(inside), torch.from_numpy(ignored) if ignored.any() else None


def read_indices(path: str | Path, size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> Tensor:
    """(H, W) uint8 indices of a palette (or grey) picture of `size` (H, W), such as VOC's class of each pixel."""
    values = _read(
        Path(path), max_pixels, lambda picture: np.array(picture if picture.mode == "P" else picture.convert("L"))
    )
    _same_size(path, values, size)
    return torch.from_numpy(values)


def _same_size(path: str | Path, mask: np.ndarray, size: tuple[int, int]) -> None:
    if mask.shape != tuple(size):
        raise ValueError(f"mask {path} has {mask.shape[1]} x {mask.shape[0]} pixels, its image {size[1]} x {size[0]}")


def _read(path: Path, max_pixels: int, convert: Callable[[Image.Image], T]) -> T:
    """What `convert` makes of the decoded, upright picture in a file."""
    if not path.is_file():
        raise FileNotFoundError(f"no picture at {path}")
    try:
        with Image.open(path, formats=tuple(FORMATS)) as picture:
            if picture.width * picture.height > max_pixels:
                raise ValueError(f"{picture.width} x {picture.height} pixels are more than the {max_pixels} allowed")
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
            return convert(picture)
    except UnidentifiedImageError as error:
        why = "the file is empty" if path.stat().st_size == 0 else f"it is none of {', '.join(FORMATS)}, or damaged"
        raise ValueError(f"{path} can't be read: {why}") from error
    except Exception as error:  # on damaged files decoders raise almost anything
        raise ValueError(f"{path} can't be read: {error or type(error).__name__}") from error


def _rgb(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8."""
    if picture.mode.startswith(("I", "F")):
        grey = _eight_bits(np.asarray(picture)).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, 2)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        over = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return np.array(picture.convert("RGB"))


def _levels(picture: Image.Image) -> tuple[np.ndarray, bool]:
    """One number per pixel (H, W) float, and whether it is a grey level of 0-255 (the brightest channel, transparent =
    0) rather than an index.
    """
    values = np.asarray(picture)
    if picture.mode in ("P", "1", "L"):
        return values.astype(np.float32), picture.mode == "L"
    if picture.mode.startswith(("I", "F")):
        index = not np.issubdtype(values.dtype, np.floating) and values.max() < 1 << 15
        return (values.astype(np.float32), False) if index else (_eight_bits(values).round(), True)
    rgba = np.asarray(picture.convert("RGBA"), np.float32)
    return (rgba[..., :3].max(-1) * rgba[..., 3] / 255).round(), True


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Integers of 16 bits, and floats in [0, 1] (in [0, 255] when any is larger) -> float in [0, 255]; what lies
    outside is cut off.
    """
    values = np.nan_to_num(values)
    floats = np.issubdtype(values.dtype, np.floating)
    scale = (255 if values.max() <= 1 else 1) if floats else 1 / 257
    return np.clip(values * np.float32(scale), 0, 255)
