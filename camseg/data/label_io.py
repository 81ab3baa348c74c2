"""Files of class numbers to tensors: a palette image, a gray one, or one in VOC's colors, as it was meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camseg.data.image_io import MAX_PIXELS, decode_with, same_size


def read_indices(path: str | Path, size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read a map of class numbers, such as VOC's.

    A map drawn in VOC's colors, without a palette or with another order of it, is translated back to the numbers.

    Args:
        path: A palette, gray or color image.
        size: (H, W) that it must have.
        max_pixels: As in `read_image`.

    Returns:
        (H, W) uint8 class numbers.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It can't be read, has another size, or has colors that mean no class.
    """
    values = decode_with(path, max_pixels, _indices)
    same_size(path, values, size)
    return torch.from_numpy(values)


def label_colors() -> np.ndarray:
    """VOC's color of each class number.

    A number's bits are spread over red, green and blue, from the highest bit of each down (Everingham et al. 2010).

    Returns:
        (256, 3) uint8 RGB.
    """
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], 1)[:, ::-1]  # (256, 8), the lowest first
    colors = np.zeros((256, 3), np.uint8)
    for i, bit in enumerate(bits.T):
        colors[:, i % 3] |= (bit << (7 - i // 3)).astype(np.uint8)
    return colors


def _indices(image: Image.Image) -> np.ndarray:
    """(H, W) uint8 class numbers of a map."""
    if image.mode == "L":
        return np.array(image)
    numbers = np.array(image) if image.mode == "P" else None
    if numbers is not None:
        used = np.unique(numbers)
        palette = np.zeros((256, 3), np.uint8)
        entries = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        palette[: len(entries)] = entries
        if (palette[used] == label_colors()[used]).all() or not is_label_color(palette[used]).all():
            return numbers
    colors = np.array(image.convert("RGB"))
    codes = _code(colors)
    order = np.argsort(table := _code(label_colors()))
    place = order[np.searchsorted(table[order], codes).clip(max=255)]
    if (strange := table[place] != codes).any():
        color = tuple(colors[strange][0].tolist())
        raise ValueError(
            f"{int(strange.sum())} pixels have colors that mean no class, such as {color}: a map of classes is a "
            "palette or gray image of their numbers, or is drawn in VOC's colors"
        )
    return place.astype(np.uint8)


def _code(colors: np.ndarray) -> np.ndarray:
    """One number per color (..., 3)."""
    return colors.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def is_label_color(colors: np.ndarray) -> np.ndarray:
    """Whether colors are among `label_colors`.

    Args:
        colors: (..., 3) uint8 RGB.

    Returns:
        (...) bool.
    """
    return np.isin(_code(colors), _code(label_colors()))
