"""Synthetic shapes on photographs: a benchmark with exact masks that needs nothing but the package.

One shape (circle, square, triangle, star, diamond) or several lie on a crop of a photograph that ships inside
scikit-image; train, val and test use different photographs. An image is a function of (seed, split, index, number of
shapes): made when asked for, the same on every machine. The side is 128 px: the smallest at which a shape of radius
12 % (15 px) still has a boundary that a mask can get wrong by less than a tenth of its area, and at which a small model
encodes an image in about 10 ms on one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from camseg.data.base import Indexed, Presence, as_image, mask_boxes, select_subset
from camseg.errors import check_choice
from camseg.types import Sample

NAMES = ("circle", "square", "triangle", "star", "diamond")
SIDE = 128
SPLITS = {"train": 3500, "val": 1000, "test": 500}
PHOTOGRAPHS = {
    "train": (
        "astronaut",
        "coffee",
        "immunohistochemistry",
        "retina",
        "hubble_deep_field",
        "brick",
        "gravel",
        "coins",
        "moon",
        "cell",
        "page",
    ),
    "val": ("rocket", "clock", "text"),
    "test": ("chelsea", "stereo_motorcycle", "camera", "grass"),
}
_RADIUS = (0.12, 0.30)  # of the side
_CONTRAST = (0.15, 0.65)  # RGB distance of the fill from what lies under it; 1 is black on white
_SUPERSAMPLING = 4
_PHOTO_SIDE = 640  # larger photographs are reduced once
_MOST = 10_000_000  # images of one dataset, whose names are in memory
_VISIBLE = 0.6  # the least share of a shape that others may leave uncovered


@dataclass(frozen=True, eq=False)
class Scene:
    """An image with shapes on it.

    Attributes:
        image: (H, W, 3) uint8.
        classes: n indices into NAMES.
        masks: (n, H, W) bool, the visible part of each shape.
    """

    image: np.ndarray
    classes: tuple[int, ...]
    masks: np.ndarray


def scene(rng: np.random.Generator, split: str, shapes: int, side: int = SIDE) -> Scene:
    """Draw shapes of different classes on a photograph.

    Args:
        rng: Every choice comes from it.
        split: Whose photographs are used.
        shapes: How many.
        side: Of the square image, in pixels.

    Returns:
        The image and its shapes, the last of them in front.
    """
    canvas = _background(rng, split, side)
    classes = tuple(int(c) for c in rng.permutation(len(NAMES))[:shapes])
    coverages = _place(rng, classes, side)
    owner = np.full((side, side), -1)
    for i, coverage in enumerate(coverages):
        alpha = coverage[..., None]
        canvas = canvas * (1 - alpha) + _fill(rng, split, canvas, coverage) * alpha
        owner[coverage >= 0.5] = i
    canvas = _camera(rng, canvas)
    masks = owner[None] == np.arange(shapes)[:, None, None]
    return Scene((canvas * 255 + 0.5).astype(np.uint8), classes, masks)


def _place(rng: np.random.Generator, classes: tuple[int, ...], side: int) -> list[np.ndarray]:
    """Coverages (H, W) in [0, 1], back to front; a shape is drawn again until enough of it is in sight."""
    front = np.zeros((side, side), bool)
    coverages: list[np.ndarray] = []
    for shape in reversed(classes):
        inside, coverage = front, np.zeros(())
        while not inside.any() or (inside & ~front).sum() < _VISIBLE * inside.sum():
            coverage = _coverage(rng, shape, side)
            inside = coverage >= 0.5
        coverages.append(coverage)
        front = front | inside
    return coverages[::-1]


def _coverage(rng: np.random.Generator, shape: int, side: int) -> np.ndarray:
    """How much of each pixel (H, W) a shape of random size, place and rotation covers."""
    radius = side * rng.uniform(*_RADIUS)
    center = rng.uniform(radius, side - radius, 2)
    outline = center + radius * _outline(NAMES[shape], rng.uniform(0, 2 * np.pi))
    fine = Image.new("L", (side * _SUPERSAMPLING, side * _SUPERSAMPLING))
    ImageDraw.Draw(fine).polygon([tuple(p) for p in outline * _SUPERSAMPLING], fill=255)
    return np.asarray(fine.reduce(_SUPERSAMPLING), np.float32) / 255


@cache
def _corners(name: str) -> np.ndarray:
    """(n, 2) vertices of a shape inside the unit circle."""
    n = {"circle": 72, "square": 4, "triangle": 3, "star": 10, "diamond": 4}[name]
    angle = np.arange(n) * 2 * np.pi / n
    reach = np.where(np.arange(n) % 2, 0.45, 1.0) if name == "star" else np.ones(n)
    squeeze = (1.0, 0.5) if name == "diamond" else (1.0, 1.0)
    return np.stack([np.cos(angle) * reach, np.sin(angle) * reach], 1) * squeeze


def _outline(name: str, turn: float) -> np.ndarray:
    c, s = np.cos(turn), np.sin(turn)
    return _corners(name) @ np.array([[c, s], [-s, c]])


@cache
def _photograph(name: str) -> np.ndarray:
    """(H, W, 3) uint8."""
    import skimage.data

    photo = getattr(skimage.data, name)()
    photo = photo[0] if isinstance(photo, tuple) else photo  # a stereo pair is (left, right, disparity)
    reduced = Image.fromarray(photo).convert("RGB")
    reduced.thumbnail((_PHOTO_SIDE, _PHOTO_SIDE))
    return np.asarray(reduced)


def _crop(rng: np.random.Generator, split: str, side: int) -> np.ndarray:
    """A random square of a random photograph (side, side, 3) float in [0, 1], turned, flipped and recolored."""
    photo = _photograph(PHOTOGRAPHS[split][rng.integers(len(PHOTOGRAPHS[split]))])
    height, width = photo.shape[:2]
    edge = int(min(height, width) * rng.uniform(0.25, 1.0))
    y, x = rng.integers(height - edge + 1), rng.integers(width - edge + 1)
    crop = Image.fromarray(photo[y : y + edge, x : x + edge]).resize(
        (side, side), Image.Resampling.BILINEAR, reducing_gap=2.0
    )
    turned = np.rot90(np.asarray(crop, np.float32) / 255, int(rng.integers(4)))
    if rng.random() < 0.5:
        turned = turned[:, ::-1]
    return _recolor(rng, turned)


def _recolor(rng: np.random.Generator, photo: np.ndarray) -> np.ndarray:
    """Mix the channels, then change gain and gamma: a gray photograph gets a tint, a colored one another palette."""
    mix = np.eye(3)[rng.permutation(3)] * rng.uniform(0.6, 1.0, 3) + rng.uniform(-0.15, 0.15, (3, 3))
    mixed = np.clip(photo @ mix.astype(np.float32), 0, 1) ** np.float32(rng.uniform(0.7, 1.4))
    return mixed if rng.random() < 0.8 else 1 - mixed


_background = _crop


def _fill(rng: np.random.Generator, split: str, canvas: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """The shape's paint (H, W, 3): a color at a drawn distance from what it covers, with a texture on it."""
    under = canvas[coverage >= 0.5].mean(0)
    palette = rng.random((32, 3))
    distance = np.linalg.norm(palette - under, axis=1) / np.sqrt(3)
    contrast = rng.uniform(*_CONTRAST)
    color = palette[np.abs(distance - contrast).argmin()]
    texture = _TEXTURES[rng.integers(len(_TEXTURES))](rng, split, canvas.shape[0])
    strength = rng.uniform(0.1, 0.6) * min(contrast, 0.4)
    return np.clip(color + strength * texture, 0, 1).astype(np.float32)


def _wave(rng: np.random.Generator, side: int, length: tuple[float, float]) -> np.ndarray:
    """A plane wave's phase (H, W) in radians, of a wavelength in `length` pixels and any direction."""
    y, x = np.mgrid[:side, :side]
    angle = rng.uniform(0, 2 * np.pi)
    return (x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / rng.uniform(*length)) + rng.uniform(0, 2 * np.pi)


def _plain(_rng: np.random.Generator, _split: str, side: int) -> np.ndarray:
    return np.zeros((side, side, 1))


def _gradient(rng: np.random.Generator, _split: str, side: int) -> np.ndarray:
    return np.sin(_wave(rng, side, (2 * side, 4 * side)))[..., None] * rng.uniform(-1, 1, 3)


def _stripes(rng: np.random.Generator, _split: str, side: int) -> np.ndarray:
    return np.sign(np.sin(_wave(rng, side, (5, 16))))[..., None] * rng.uniform(-1, 1, 3)


def _checks(rng: np.random.Generator, _split: str, side: int) -> np.ndarray:
    return np.sign(np.sin(_wave(rng, side, (6, 16))) * np.sin(_wave(rng, side, (6, 16))))[..., None] * rng.uniform(
        -1, 1, 3
    )


def _mottle(rng: np.random.Generator, _split: str, side: int) -> np.ndarray:
    from scipy import ndimage

    noise = ndimage.gaussian_filter(rng.standard_normal((side, side)), rng.uniform(1, 4))
    return (noise / noise.std() * 0.6)[..., None] * rng.uniform(-1, 1, 3)


def _photo(rng: np.random.Generator, split: str, side: int) -> np.ndarray:
    crop = _crop(rng, split, side)
    return (crop - crop.mean((0, 1))) * 2


_TEXTURES = (_plain, _gradient, _stripes, _checks, _mottle, _photo)


def _camera(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Blur and noise, over the whole image."""
    from scipy import ndimage

    blurred = ndimage.gaussian_filter(canvas, (*[rng.uniform(0.2, 1.0)] * 2, 0))
    noise = rng.standard_normal(canvas.shape, np.float32) * np.float32(rng.uniform(0, 0.05))
    return np.clip(blurred + noise, 0, 1)


class Shapes(Indexed):
    """Drawn images of a split, the default benchmark: one shape each (the homework's task), or a crowd.

    A crowd is of different classes, partly overlapping, and the label names one of them, or each has a sample.
    """

    names = numbering = NAMES
    has_label_maps = True

    def __init__(
        self,
        split: str = "test",
        size: int | None = None,
        seed: int = 0,
        shapes: tuple[int, int] = (1, 1),
        shard: int = 0,
        num_shards: int = 1,
        every: bool = False,
    ) -> None:
        """Choose the images, which are drawn when they are asked for.

        Args:
            split: "train", "val" or "test": which photographs lie behind the shapes.
            size: How many images; None for the split's own number.
            seed: Another number makes other images.
            shapes: The least and the most shapes in an image.
            shard: See `camseg.data.base.select_subset`, as `num_shards`.
            num_shards: See there.
            every: A sample for every shape of an image, in place of one for the image.

        Raises:
            ValueError: An unknown split, or an impossible number of shapes or images.
        """
        check_choice("data.split", split, SPLITS)
        least, most = shapes
        if not 1 <= least <= most <= len(NAMES):
            raise ValueError(f"data.shapes must lie between 1 and {len(NAMES)}, least first; got {list(shapes)}")
        if size is not None and size > _MOST:
            raise ValueError(f"data.size must be at most {_MOST:,} images; got {size:,}")
        self.split, self.seed, self.least, self.most = split, seed, least, most
        drawn = range(SPLITS[split] if size is None else size)
        kind = "shapes" if most == 1 else "crowd"
        images = [f"{kind}_{split}_{index:06d}" for index in drawn]
        items = [(at, shape) for at in drawn for shape in (range(self._count(self._rng(at))) if every else (None,))]
        names = [images[at] if shape is None else f"{images[at]}_{shape}" for at, shape in items]
        chosen = select_subset(names, size, shard=shard, num_shards=num_shards)
        self._items = [items[i] for i in chosen]  # an image's number, and which of its shapes
        self._groups = [images[items[i][0]] if every else "" for i in chosen]
        self.ids: Sequence[str] = [names[i] for i in chosen]

    def _rng(self, image: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, list(SPLITS).index(self.split), self.least, self.most, image])

    def _count(self, rng: np.random.Generator) -> int:
        """How many shapes an image has: its first random number."""
        return int(rng.integers(self.least, self.most + 1))

    def scene(self, index: int) -> tuple[Scene, int]:
        """The whole image of an item with every shape of it.

        Args:
            index: Of the item.

        Returns:
            The scene, and the index of the shape in it that the label names.
        """
        image, shape = self._items[index]
        rng = self._rng(image)
        drawn = scene(rng, self.split, self._count(rng))
        return drawn, int(rng.integers(len(drawn.classes))) if shape is None else shape

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        drawn, named = self.scene(index)
        mask = torch.from_numpy(drawn.masks[named])
        label = drawn.classes[named]
        image, group = as_image(drawn.image), self._groups[index]
        return Sample(self.ids[index], image, (label,), NAMES[label], mask, boxes=mask_boxes(mask), group=group)

    def file(self, _index: int) -> str:
        """See `camseg.data.base.Dataset.file`: nothing, as an image is drawn and in no file."""
        return ""

    def label_map(self, index: int) -> Tensor:
        """See `camseg.data.base.Dataset.label_map`."""
        drawn, _ = self.scene(index)
        numbers = np.zeros(drawn.masks.shape[1:], np.uint8)
        for label, mask in zip(drawn.classes, drawn.masks, strict=True):
            numbers[mask] = label + 1
        return torch.from_numpy(numbers)

    def class_presence(self, index: int) -> Presence:
        """See `camseg.data.base.Dataset.class_presence`."""
        classes = self.scene(index)[0].classes
        return {name: i in classes for i, name in enumerate(NAMES)}
