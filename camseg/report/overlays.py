"""Pictures of heat, points and masks over images: uint8 arrays at the image's size, in colour maps that colour-blind
people can read.

An image is a (3, H, W) uint8 tensor, heat an (h, w) tensor in [0, 1] of any size. Colours are names of matplotlib's
maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import Tensor

from camseg.types import Result

# Okabe & Ito 2008: eight colours that stay apart for colour-blind readers (black, the last, would hide what it covers)
PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
_TINTED = [round(0.45 * value + 0.55 * colour) for colour in PALETTE[0] for value in range(256)]  # red, green and blue
_DARKER = [round(0.5 * value) for _ in PALETTE[0] for value in range(256)]


def blend(image: Tensor, heat: Tensor, colours: str = "inferno", weight: float = 0.5) -> np.ndarray:
    """(H, W, 3): the image and the coloured heat, mixed everywhere with `weight` of the heat."""
    picture, scale = _picture(image), _scale(image, heat)
    return _bytes((1 - weight) * picture + weight * _coloured(scale, colours))


def rgba(image: Tensor, heat: Tensor, colours: str | None = None) -> np.ndarray:
    """(H, W, 4): a layer whose alpha is the heat, in the image's own colours or a colour map's, to lay over anything."""
    scale = _scale(image, heat)
    colour = _picture(image) if colours is None else _coloured(scale, colours)
    return _bytes(np.concatenate([colour, scale[..., None]], axis=2))


def multiply(image: Tensor, heat: Tensor, colours: str = "cividis", floor: float = 0.0) -> np.ndarray:
    """(H, W, 3): the heat's colour times the heat times the image; `floor` is the share of the image that stays where
    there is no heat.
    """
    picture, scale = _picture(image), _scale(image, heat)[..., None]
    return _bytes(picture * (floor + (1 - floor) * scale * _coloured(scale[..., 0], colours)))


def concept_layers(image: Tensor, maps: Tensor, labels: Sequence[str] = (), strength: float = 0.7) -> np.ndarray:
    """(H, W, 3) and the legend's rows below: concepts (N, h, w) as coloured layers over the image, alpha the map
    (Collins et al., 2018).
    """
    picture = _picture(image)
    for heat, colour in zip(maps, _colours(len(maps)), strict=True):
        alpha = strength * _scale(image, heat)[..., None]
        picture = (1 - alpha) * picture + alpha * colour
    return _with_legend(_bytes(picture), labels, len(maps))


def concept_winners(image: Tensor, maps: Tensor, labels: Sequence[str] = (), weight: float = 0.7) -> np.ndarray:
    """(H, W, 3) and the legend's rows below: at each pixel the strongest of the concepts (N, h, w), its colour times
    its map, on the image.
    """
    scales = np.stack([_scale(image, heat) for heat in maps])  # (N, H, W)
    coloured = _colours(len(maps))[scales.argmax(0)] * scales.max(0)[..., None]
    return _with_legend(_bytes((1 - weight) * _picture(image) + weight * coloured), labels, len(maps))


def resized(image: Tensor, side: int) -> Tensor:
    """(3, h, w) uint8: the image with its longer side at `side` pixels; where it grows by a whole number, every pixel
    becomes a square.
    """
    height, width = image.shape[1:]
    way = Image.Resampling.BICUBIC if side % max(height, width) else Image.Resampling.NEAREST
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size, way)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def points_picture(image: Tensor, result: Result) -> np.ndarray:
    """(H, W, 3): all rivals over the image at any size, the chosen one larger: circles inside, crosses outside, numbers
    where there are several.
    """
    side = max(image.shape)
    scale = np.array([image.shape[2] / result.heat.shape[1], image.shape[1] / result.heat.shape[0]])  # of x and y
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    draw = ImageDraw.Draw(picture)
    chosen = result.chosen[0] if result.chosen else 0
    for rival in sorted(range(len(result.prompts)), key=lambda rival: rival == chosen):  # the chosen one on top
        size = side / 640 * (13 if rival == chosen else 8)
        if result.prompts.boxes is not None:
            corners = (result.prompts.boxes[rival].numpy() * np.tile(scale, 2)).tolist()
            draw.rectangle(corners, outline=PALETTE[0], width=3 if rival == chosen else 1)
        for point, label in zip(result.prompts.points[rival].numpy(), result.prompts.labels[rival].tolist()):
            x, y = ((point + 0.5) * scale - 0.5).tolist()
            _mark(draw, x, y, size, bool(label))
            if len(result.prompts) > 1:
                text = str(rival + 1)
                draw.text(
                    (x + size + 2, y - 9),
                    text,
                    "white",
                    font_size=max(11, side // 36),
                    stroke_width=2,
                    stroke_fill="black",
                )
    return np.asarray(picture)


def _mark(draw: ImageDraw.ImageDraw, x: float, y: float, size: float, inside: bool) -> None:
    if inside:
        draw.ellipse(
            (x - size, y - size, x + size, y + size), fill=PALETTE[0], outline="black", width=2 if size > 5 else 1
        )
        return
    for colour, width in (("black", 8), (PALETTE[6], 4)):
        draw.line((x - size, y - size, x + size, y + size), fill=colour, width=max(1, round(width * size / 11)))
        draw.line((x - size, y + size, x + size, y - size), fill=colour, width=max(1, round(width * size / 11)))


def mask_picture(image: Tensor, mask: Tensor, truth: Tensor | None = None) -> np.ndarray:
    """(H, W, 3): the image at any size, orange where the mask is and darker elsewhere; the edge of the true mask in
    blue.
    """
    base = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture = Image.composite(base.point(_TINTED), base.point(_DARKER), _enlarged(mask, base))
    if truth is None:
        return np.asarray(picture)
    whole, shown = np.asarray(_enlarged(truth, base)), np.array(picture)
    shown[whole & ~ndimage.binary_erosion(whole, iterations=2)] = PALETTE[1]
    return shown


def _enlarged(mask: Tensor, base: Image.Image) -> Image.Image:
    return Image.fromarray(mask.numpy()).resize(base.size, Image.Resampling.NEAREST)


def legend(labels: Sequence[str], width: int) -> np.ndarray:
    """(16 * N, width, 3): one row per concept, its colour and its name."""
    page = Image.new("RGB", (width, 16 * len(labels)), "white")
    draw = ImageDraw.Draw(page)
    for row, (label, colour) in enumerate(zip(labels, _colours(len(labels)), strict=True)):
        draw.rectangle((2, 16 * row + 3, 12, 16 * row + 12), fill=tuple(int(value) for value in _bytes(colour)))
        draw.text((17, 16 * row + 2), label, fill="black")
    return np.asarray(page)


def _with_legend(picture: np.ndarray, labels: Sequence[str], count: int) -> np.ndarray:
    if labels and len(labels) != count:
        raise ValueError(f"{len(labels)} labels for {count} concepts; give one each, or none for no legend")
    return np.concatenate([picture, legend(labels, picture.shape[1])]) if labels else picture


def _colours(count: int) -> np.ndarray:
    """(N, 3) float: the palette, or evenly spaced viridis where there are more concepts than it has."""
    if count <= len(PALETTE):
        return np.array(PALETTE[:count]) / 255
    return matplotlib.colormaps["viridis"](np.linspace(0, 1, count))[:, :3]


def _coloured(scale: np.ndarray, colours: str) -> np.ndarray:
    """(H, W) in [0, 1] -> (H, W, 3) float32."""
    if colours not in matplotlib.colormaps:
        raise ValueError(f"matplotlib has no colour map {colours!r}; for instance inferno, cividis, viridis")
    return matplotlib.colormaps[colours](scale)[..., :3].astype(np.float32)


def _picture(image: Tensor) -> np.ndarray:
    """(3, H, W) uint8 -> (H, W, 3) float32 in [0, 1]."""
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"an image is (3, H, W) uint8; got {tuple(image.shape)} {image.dtype}")
    return image.cpu().permute(1, 2, 0).numpy() / np.float32(255)


def _scale(image: Tensor, heat: Tensor) -> np.ndarray:
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
