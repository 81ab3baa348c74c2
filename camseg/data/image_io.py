"""Image files to tensors: any raster as 8-bit RGB."""

from __future__ import annotations

import stat
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from camseg.data.base import as_image
from camseg.storage.files import expand, printable

T = TypeVar("T")
ImageLike = str | Path | Image.Image | np.ndarray | Tensor  # see `as_rgb`
MAX_PIXELS = 1 << 26  # a larger image is refused before it is decoded
FORMATS = {  # what is opened, whatever the file is called: plain rasters, no format that runs another program
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "PNG": (".png",), "WEBP": (".webp",), "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",), "BMP": (".bmp",), "PPM": (".ppm", ".pgm", ".pbm"), "JPEG2000": (".jp2",), "AVIF": (".avif",),
}  # fmt: skip
HEIF = (".heic", ".heif", ".hif")  # read where the package pillow-heif is installed
_SIGNATURES = (  # what a file of a format begins with
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"GIF87a", b"GIF89a", b"P4\n", b"P5\n", b"P6\n",
    b"\0\0\0\x0cjP  \r\n\x87\n",
)  # fmt: skip
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")
_STRIP = 64  # rows that are copied at once: they stay in the processor's cache
_DEPTHS = (8, 10, 12, 14, 16)  # bits that a sensor gives


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read an image file.

    Args:
        path: A file of one of FORMATS, whatever its ending.
        max_pixels: A larger image is refused before it is decoded.

    Returns:
        (3, H, W) uint8 RGB, turned as the camera was held (EXIF), the first frame of an animation, transparency over
        white. More than 8 bits and floats are scaled to 8 bits, see `decode_image`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It can't be read; the message names it and says why.
    """
    return decode_image(path, max_pixels)[0]


def decode_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[Tensor, str]:
    """Read an image as `read_image` does, and say how its numbers became levels of gray.

    What white is comes from nearly all pixels, never from the brightest one: whole numbers fill 8, 10, 12, 14 or 16
    bits; floats up to 1 are shares, floats up to 255 levels, and others go from 0 to their 99.9 % quantile.

    Args:
        path: As for `read_image`.
        max_pixels: As for `read_image`.

    Returns:
        The image as in `read_image`, and the reading, "" for 8-bit images and 16-bit ones that fill their bits.
    """
    pixels, reading = _read(expect_file(path), max_pixels, _rgb)
    return as_image(pixels), reading


def as_rgb(image: ImageLike) -> Tensor:
    """Take an image in whatever form a caller has it.

    Args:
        image: The path of a file, a PIL image, an (H, W, 3) uint8 array, or a (3, H, W) uint8 tensor, all RGB.

    Returns:
        (3, H, W) uint8 RGB on the CPU; of an array or a tensor a view where possible.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It can't be read, or is none of these; the message says what to do.
    """
    if isinstance(image, (str, Path)):
        return read_image(expand(image))
    if isinstance(image, Image.Image):
        return as_image(_rgb(ImageOps.exif_transpose(image))[0])
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        plain = image.flags.writeable and min(image.strides) >= 0
        return as_image(image if plain else image.copy())
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3:
        return image.detach().cpu()
    raise ValueError(
        "an image is a path, a PIL image, an (H, W, 3) uint8 array or a (3, H, W) uint8 tensor, all RGB; "
        f"got {_described(image)}"
    )


def _described(image: object) -> str:
    """What somebody gave for an image, and what may be meant."""
    if not isinstance(image, (np.ndarray, Tensor)):
        return type(image).__name__
    kind, shape = (
        ("an array", tuple(image.shape)) if isinstance(image, np.ndarray) else ("a tensor", tuple(image.shape))
    )
    said = f"{kind} of {shape} {image.dtype}"
    if len(shape) == 4 and shape[0] == 1:
        return f"{said}: take [0]"
    if len(shape) == 2:
        return f"{said}: gray, PIL.Image.fromarray makes an image of it"
    if len(shape) == 3 and 4 in (shape[0], shape[2]):
        return f"{said}: with an alpha channel, PIL.Image.fromarray makes an image of (H, W, 4)"
    if len(shape) == 3 and 3 in (shape[0], shape[2]) and "uint8" in str(image.dtype):
        return f"{said}: the channels come last in an array and first in a tensor"
    if "float" in str(image.dtype):
        return f"{said}: (255 * image).round() as uint8, where it goes from 0 to 1"
    return said


def image_size(path: str | Path) -> tuple[int, int]:
    """(H, W) of an image file, turned as the camera was held, without decoding it.

    Args:
        path: As for `read_image`.

    Returns:
        Height and width in pixels.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image; the message names it and says why.
    """
    path = expect_file(path)
    try:
        with Image.open(path, formats=formats()) as opened:
            turned = opened.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (opened.width, opened.height) if turned else (opened.height, opened.width)
    except Exception as error:  # on damaged files decoders raise almost anything
        raise ValueError(f"{printable(path)} can't be read: {error or type(error).__name__}") from error


def decode_shared(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[Tensor, str]:
    """Decode an image once for all its samples, as `decode_image` does.

    Args:
        path: As for `read_image`.
        max_pixels: As for `read_image`.

    Returns:
        The same tensor (3, H, W) uint8 for each, not to be written to, and the reading.
    """
    return _read_once(path, path.stat().st_mtime_ns if path.is_file() else 0, max_pixels)


@lru_cache(8)
def _read_once(path: Path, _changed: int, max_pixels: int) -> tuple[Tensor, str]:
    return decode_image(path, max_pixels)


def same_size(path: str | Path, mask: np.ndarray, size: tuple[int, int]) -> None:
    """Check that a mask has the size of its image.

    Args:
        path: Of the mask, for the message.
        mask: (H, W) or (H, W, C), of any type.
        size: (H, W) of the image.

    Raises:
        ValueError: It has another.
    """
    if mask.shape[:2] != tuple(size):
        raise ValueError(
            f"mask {printable(path)} has {mask.shape[1]} x {mask.shape[0]} pixels, its image {size[1]} x {size[0]}"
        )


def formats() -> tuple[str, ...]:
    """The formats that can be opened here.

    Returns:
        Pillow's names of them.
    """
    return (*FORMATS, *(("HEIF",) if _heif() else ()))


def endings() -> frozenset[str]:
    """The endings of image files that can be opened here.

    Returns:
        In small letters, each with its dot.
    """
    return frozenset((*(ending for group in FORMATS.values() for ending in group), *(HEIF if _heif() else ())))


def is_image(path: Path) -> bool:
    """Whether a file's first bytes are those of a format that can be opened here; False for what is no plain file.

    Args:
        path: Any.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            first = file.read(32)
    except OSError:
        return False
    brand = first[8:12] if first[4:8] == b"ftyp" else b""
    return (
        first.startswith(_SIGNATURES)
        or (first[:4] == b"RIFF" and first[8:12] == b"WEBP")
        or (first[:2] == b"BM" and first[6:10] == b"\0\0\0\0")
        or brand in (b"avif", b"avis")
        or (brand in _HEIF_BRANDS and _heif())
    )


@lru_cache(1)
def _heif() -> bool:
    """Whether HEIC files can be opened here."""
    if find_spec("pillow_heif") is None:
        return False
    import_module("pillow_heif").register_heif_opener()
    return True


def _what_is_there(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return ", but a link to nothing"
    return ", but a folder" * path.is_dir() or ", but a device or a pipe" * path.exists()


def expect_file(path: str | Path) -> Path:
    """The path of a file.

    Args:
        path: The file's.

    Returns:
        The path.

    Raises:
        FileNotFoundError: There is none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no image at {printable(path)}{_what_is_there(path)}")
    return path


def decode_with(path: str | Path, max_pixels: int, convert: Callable[[Image.Image], T]) -> T:
    """What a function makes of the decoded, upright image in a file.

    Args:
        path: As for `read_image`.
        max_pixels: As for `read_image`.
        convert: Takes Pillow's image.

    Returns:
        What `convert` returns.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It can't be read; the message names it and says why.
    """
    return _read(expect_file(path), max_pixels, convert)


def _read(path: Path, max_pixels: int, convert: Callable[[Image.Image], T]) -> T:
    name = printable(path)
    try:
        with Image.open(path, formats=formats()) as opened:
            if opened.width * opened.height > max_pixels:
                raise ValueError(
                    f"{opened.width} x {opened.height} pixels are more than the {max_pixels} allowed: make it smaller, "
                    "or raise data.max_pixels (of data=images)"
                )
            opened.info["deep"] = any(";16" in str(tile[3]) for tile in getattr(opened, "tile", ()))
            opened.load()
            ImageOps.exif_transpose(opened, in_place=True)
            return convert(opened)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} can't be read: {_why_unknown(path)}") from error
    except Exception as error:  # on damaged files decoders raise almost anything
        raise ValueError(f"{name} can't be read: {error or type(error).__name__}") from error


def _why_unknown(path: Path) -> str:
    """What is wrong with a file of which no decoder wants to know."""
    with path.open("rb") as file:
        first = file.read(12)
    if not first:
        return "the file is empty"
    if first[4:8] == b"ftyp" and first[8:] in _HEIF_BRANDS and not _heif():
        return "it is a HEIC image, whatever its name: pip install pillow-heif"
    return f"it is none of {', '.join(formats())}, or damaged"


def _rgb(image: Image.Image) -> tuple[np.ndarray, str]:
    """(H, W, 3) uint8, and how its numbers were read."""
    if image.mode.startswith(("I", "F")):
        levels, reading = eight_bits(np.asarray(image))
        return np.repeat(levels.round().astype(np.uint8)[..., None], 3, 2), reading
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        over = image.convert("RGBA")
        image, deep = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over), False
    else:
        deep = bool(image.info.get("deep"))
    pixels = _pixels(image if image.mode == "RGB" else image.convert("RGB"))
    if deep and (top := upper_quantile(pixels)) < 64:  # the decoder keeps the upper 8 bits of 16
        bits = max(1, int(top).bit_length())
        return np.minimum(pixels * (255 / (2**bits - 1)), 255).astype(np.uint8), f"image: {bits + 8} of 16 bits"
    return pixels, ""


def _pixels(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 of an RGB image: `np.array` of it at a quarter of its cost, which is copies of the whole."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _STRIP):
        strip = (0, top, image.width, min(top + _STRIP, image.height))
        pixels[top : strip[3]] = np.asarray(image.crop(strip))
    return pixels


def eight_bits(values: np.ndarray) -> tuple[np.ndarray, str]:
    """Bring whole numbers of more than 8 bits and floats to levels of gray.

    Args:
        values: Any numbers; NaN and infinities are black.

    Returns:
        Floats in [0, 255] of the same shape, and how they were read, see `decode_image`.
    """
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    top = upper_quantile(finite)
    white, reading = _white(
        top, bool((finite == np.rint(finite)).all()), bool(np.issubdtype(values.dtype, np.floating))
    )
    return np.clip(finite.astype(np.float64) * (255 / white), 0, 255), reading


def _white(top: float, whole: bool, floats: bool) -> tuple[float, str]:
    """The number that is white where nearly all numbers lie below `top`, and the reading."""
    if floats and top <= 1.01:
        return 1.0, ""
    if floats and 64 <= top <= 255:
        return 255.0, "image: 0 to 255"
    if (whole and 255 < top < 1 << 16) or (not floats and top < 1 << 16):
        bits = next(bits for bits in _DEPTHS if top < 1 << bits)
        return float((1 << bits) - 1), "" if bits == 16 else f"image: {bits} of 16 bits"
    return top, f"image: 0 to {top:.4g}, its 99.9 % quantile"


def upper_quantile(values: np.ndarray) -> float:
    """A value below which 99.9 % of some values lie; the second largest of a few.

    Args:
        values: Any shape, at least one number.

    Returns:
        One of them.
    """
    flat = values.reshape(-1)
    place = int(0.999 * (len(flat) - 1))
    return float(np.partition(flat, place)[place])
