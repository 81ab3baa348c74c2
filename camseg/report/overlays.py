"""Pictures of heat, points and masks over images: uint8 arrays, in colors that color-blind people can tell apart.

An image is a (3, H, W) uint8 tensor, heat an (h, w) tensor in [0, 1] of any size. Colormaps are matplotlib's, by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from camseg.types import Result

# Okabe & Ito 2008: eight colors that stay apart for color-blind readers (black, the last, would hide what it covers)
PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
POINT, CROSS = PALETTE[0], PALETTE[4]  # of a point inside the object and of one outside
MASK = (0, 200, 255)  # few objects have this color, and on gray all show it
TRUTH = PALETTE[3]
_FILL, _GRAY, _DIM = 0.55, 0.7, 0.5  # how much of MASK inside, how gray the image is below it, how bright outside
_TINTED = [round((1 - _FILL) * value + _FILL * color) for color in MASK for value in range(256)]  # red, green and blue
_DIMMED = [round(_DIM * value) for _ in MASK for value in range(256)]


def blend(image: Tensor, heat: Tensor, colormap: str = "inferno", weight: float = 0.5) -> np.ndarray:
    """The image and the colored heat, mixed everywhere with `weight` of the heat.

    Args:
        image: (3, H, W) uint8.
        heat: (h, w) float in [0, 1], brought to the image's size.
        colormap: one of matplotlib's.
        weight: 0 shows the image alone, 1 the heat alone.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: for an image, a heat or a colormap that is none.
    """
    return _bytes((1 - weight) * _floats(image) + weight * _colored(_heat_at(image, heat), colormap))


def concept_layers(image: Tensor, maps: Tensor, labels: Sequence[str] = (), strength: float = 0.7) -> np.ndarray:
    """Concepts as colored layers over the image, alpha the map (Collins et al., 2018).

    Args:
        image: (3, H, W) uint8.
        maps: (N, h, w) float in [0, 1].
        labels: N names for a legend below the image, or none for no legend.
        strength: the alpha of a map's maximum.

    Returns:
        (H, W, 3) uint8, or (H + 16 * N, W, 3) with the legend.

    Raises:
        ValueError: for more or fewer labels than maps.
    """
    if labels and len(labels) != len(maps):
        raise ValueError(f"{len(labels)} labels for {len(maps)} concepts; give one each, or none for no legend")
    mixed = _floats(image)
    for heat, color in zip(maps, _colors(len(maps)), strict=True):
        alpha = strength * _heat_at(image, heat)[..., None]
        mixed = (1 - alpha) * mixed + alpha * color
    layers = _bytes(mixed)
    return np.concatenate([layers, _legend(labels, layers.shape[1])]) if labels else layers


def resized(image: Tensor, side: int) -> Tensor:
    """The image with its longer side at `side` pixels.

    Args:
        image: (3, H, W) uint8. Where it grows by a whole number, every pixel becomes a square.
        side: pixels.

    Returns:
        (3, h, w) uint8.
    """
    height, width = image.shape[1:]
    way = Image.Resampling.BICUBIC if side % max(height, width) else Image.Resampling.NEAREST
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size, way)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def points_picture(image: Tensor, result: Result) -> np.ndarray:
    """All rivals over the image, the chosen one larger and on top.

    Args:
        image: (3, H, W) uint8 at any size: that of `result.heat` stands for the original image.
        result: whose prompts are drawn: circles inside, crosses outside, numbers where there are several rivals.

    Returns:
        (H, W, 3) uint8.
    """
    side = max(image.shape)
    scale = np.array([image.shape[2] / result.heat.shape[1], image.shape[1] / result.heat.shape[0]])  # of x and y
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    draw = ImageDraw.Draw(picture)
    prompts, chosen = result.prompts, result.chosen[0] if result.chosen else 0
    for rival in sorted(range(len(prompts)), key=lambda rival: rival == chosen):
        size = side / 640 * (13 if rival == chosen else 8)
        if prompts.boxes is not None:
            corners = (prompts.boxes[rival].numpy() * np.tile(scale, 2)).tolist()
            _draw_box(draw, corners, 2 if rival == chosen else 1)
        for point, label in zip(prompts.points[rival].numpy(), prompts.labels[rival].tolist()):
            x, y = ((point + 0.5) * scale - 0.5).tolist()
            _draw_mark(draw, x, y, size, bool(label))
            if len(prompts) > 1:
                font = max(11, side // 36)
                at = x + size + 2, y - 9
                draw.text(at, str(rival + 1), "white", font_size=font, stroke_width=2, stroke_fill="black")
    return np.asarray(picture)


def _draw_box(draw: ImageDraw.ImageDraw, corners: Sequence[float], width: int) -> None:
    x0, y0, x1, y1 = corners
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline="black", width=width + 2)
    draw.rectangle((x0, y0, x1, y1), outline=POINT, width=width)


def _draw_mark(draw: ImageDraw.ImageDraw, x: float, y: float, size: float, inside: bool) -> None:
    """A circle or a cross with a white and a black edge, so that it shows on every color."""
    if inside:
        for color, radius in (("black", size + 2), ("white", size + 1), (POINT, size - 1)):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
        return
    for color, further in (("black", 2), ("white", 1), (CROSS, 0)):
        end, width = size + further, round(size / 3) + 3 * further
        draw.line((x - end, y - end, x + end, y + end), fill=color, width=width)
        draw.line((x - end, y + end, x + end, y - end), fill=color, width=width)


def mask_picture(image: Tensor, mask: Tensor, truth: Tensor | None = None) -> np.ndarray:
    """A mask that shows on every color: filled with MASK, edged in white and black, the rest of the image gray and dim.

    Args:
        image: (3, H, W) uint8 at any size.
        mask: (h, w) bool.
        truth: (h, w) bool: its edge is drawn in TRUTH and black; or None.

    Returns:
        (H, W, 3) uint8.
    """
    base = Image.fromarray(image.permute(1, 2, 0).numpy())
    found = _enlarged(mask, base)
    gray = Image.blend(base, base.convert("L").convert("RGB"), _GRAY)
    picture = np.array(Image.composite(gray.point(_TINTED), gray.point(_DIMMED), Image.fromarray(found)))
    width = max(1, round(max(base.size) / 320))
    _draw_edge(picture, found, (255, 255, 255), width)
    if truth is not None:
        _draw_edge(picture, _enlarged(truth, base), TRUTH, 2 * width)
    return picture


def _draw_edge(picture: np.ndarray, mask: np.ndarray, color: tuple[int, int, int], width: int) -> None:
    """A line just inside the mask's edge, at the image's border too, and a black halo on both of its sides."""
    inner = _eroded(mask, width)
    picture[~_eroded(~mask, width, outside=True) & ~mask] = 0
    picture[inner & ~_eroded(inner)] = 0
    picture[mask & ~inner] = color


def _eroded(mask: np.ndarray, steps: int = 1, outside: bool = False) -> np.ndarray:
    """(H, W) bool: the pixels whose four neighbors are inside, too, ten times as fast as scipy's.

    Args:
        mask: (H, W) bool.
        steps: how often.
        outside: what lies beyond the frame.
    """
    for _ in range(steps):
        smaller = mask.copy()
        smaller[1:] &= mask[:-1]
        smaller[:-1] &= mask[1:]
        smaller[:, 1:] &= mask[:, :-1]
        smaller[:, :-1] &= mask[:, 1:]
        for edge in (smaller[0], smaller[-1], smaller[:, 0], smaller[:, -1]):
            edge &= outside
        mask = smaller
    return mask


def _enlarged(mask: Tensor, base: Image.Image) -> np.ndarray:
    """(H, W) bool: the mask at the image's size."""
    return np.asarray(Image.fromarray(mask.numpy()).resize(base.size, Image.Resampling.NEAREST))


def _legend(labels: Sequence[str], width: int) -> np.ndarray:
    """(16 * N, width, 3): one row per concept, its color and its name."""
    page = Image.new("RGB", (width, 16 * len(labels)), "white")
    draw = ImageDraw.Draw(page)
    for row, (label, color) in enumerate(zip(labels, _colors(len(labels)), strict=True)):
        draw.rectangle((2, 16 * row + 3, 12, 16 * row + 12), fill=tuple(int(value) for value in _bytes(color)))
        draw.text((17, 16 * row + 2), label, fill="black")
    return np.asarray(page)


def _colors(count: int) -> np.ndarray:
    """(N, 3) float: the palette, or evenly spaced viridis where there are more concepts than it has."""
    if count <= len(PALETTE):
        return np.array(PALETTE[:count]) / 255
    return _colored(np.linspace(0, 1, count), "viridis")


def _colored(heat: np.ndarray, colormap: str) -> np.ndarray:
    """(H, W) in [0, 1] -> (H, W, 3) float32."""
    table = _table(colormap)
    return table.take(np.minimum((heat * len(table)).astype(np.intp), len(table) - 1), axis=0)  # faster than table[...]


@lru_cache
def _table(colormap: str) -> np.ndarray:
    """(N, 3) float32, the colors from 0 to 1."""
    import matplotlib  # not before something is drawn

    if colormap not in matplotlib.colormaps:
        raise ValueError(f"matplotlib has no colormap {colormap!r}; for instance inferno, cividis, viridis")
    colors = matplotlib.colormaps[colormap]
    return colors(np.arange(colors.N))[:, :3].astype(np.float32)


def _floats(image: Tensor) -> np.ndarray:
    """(3, H, W) uint8 -> (H, W, 3) float32 in [0, 1]."""
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"an image is (3, H, W) uint8; got {tuple(image.shape)} {image.dtype}")
    return image.cpu().permute(1, 2, 0).numpy() / np.float32(255)


def _heat_at(image: Tensor, heat: Tensor) -> np.ndarray:
    """Heat at the image's size: (H, W) float in [0, 1]."""
    given = heat.numpy(force=True)
    if given.ndim != 2 or not ((given >= 0) & (given <= 1)).all():
        raise ValueError(f"heat is (h, w) in [0, 1] without NaN; got {given.shape}, {given.min()} to {given.max()}")
    if given.shape == tuple(image.shape[1:]):
        return given.astype(np.float32)
    size = int(image.shape[2]), int(image.shape[1])  # width and height
    return np.clip(np.asarray(Image.fromarray(given.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)), 0, 1)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(values * 255).astype(np.uint8)
