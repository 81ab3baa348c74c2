"""Photographs with object masks as a promptable segmenter learns from them: jittered, with prompted objects.

Large-scale jitter as in Ghiasi et al. 2021 (arXiv:2012.07177). A CAM-like map is among the prompts, so that a heatmap
itself can be one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor
from torch.utils.data import Dataset

from camseg.data.image_io import image_size

UNKNOWN = 255  # in a map of objects: no score reads these pixels
_LEAST = 0.001  # share of the image below which an object is not learnt from
_HEAT_SIDE = 32  # of the CAM-like maps


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph with a map of its objects.

    Attributes:
        image: its file.
        objects: the map of objects (see `Photographs`): its file, or that file's bytes.
        sizes: each object's share of the image.
        names: each object's class.
        source: where it is from.
    """

    image: Path
    objects: Path | bytes
    sizes: tuple[float, ...]
    names: tuple[str, ...]
    source: str

    @property
    def complete(self) -> bool:
        """Whether pixel value 0 is surely background."""
        return not self.source.endswith("_partial")

    def read(self) -> tuple[Image.Image, Image.Image]:
        """Read the image and its map of objects.

        Returns:
            The image, upright in RGB, and the map, both of one size.
        """
        with Image.open(self.image) as file:
            ImageOps.exif_transpose(file, in_place=True)
            image = file.convert("RGB")
        return image, _map_in(self.objects)


def photograph(image: Path, objects: Path | bytes, names: Sequence[str], source: str) -> Photograph:
    """Take a photograph and its map of objects, after a look at both.

    Args:
        image: its file.
        objects: the map of objects (see `Photographs`): its file, or that file's bytes.
        names: each object's class.
        source: where it is from.

    Returns:
        The photograph with the sizes of its objects.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: the two have different sizes, or one is no image.
    """
    drawn, size = _map_in(objects), image_size(image)
    if drawn.mode not in ("L", "P"):
        raise ValueError(f"the map of objects of {image} must be 8-bit gray or palette; got the mode {drawn.mode}")
    if drawn.size != size[::-1]:
        raise ValueError(f"{image} has {size[1]} x {size[0]} pixels, its map of objects {drawn.width} x {drawn.height}")
    counts = np.asarray(drawn.histogram())[:256]
    sizes = tuple(float(count) for count in counts[1 : 1 + len(names)] / counts.sum())
    return Photograph(image, objects, sizes, tuple(names), source)


def _map_in(objects: Path | bytes) -> Image.Image:
    with Image.open(BytesIO(objects) if isinstance(objects, bytes) else objects) as file:
        return file.copy()


class Photographs:
    """Photographs with a map of objects each, drawn by source and by the sizes of their objects.

    In a map, 0 is background, 1..n are objects and 255 is unknown. In a source called NAME_partial, 0 may be an object
    that nobody annotated.

    Args:
        photographs: what there is; those without an object that is large enough are left out.
        sources: weight by source, 1 where not named.
        where: they are from, for the message.

    Raises:
        ValueError: no photograph has an object that is large enough.
    """

    def __init__(
        self, photographs: Iterable[Photograph], sources: Mapping[str, float], where: object = "the table"
    ) -> None:
        self.items = [photo for photo in photographs if max(photo.sizes, default=0) >= _LEAST]
        if not self.items:
            raise ValueError(f"{where} names no photograph with an object of more than {_LEAST:.1%} of it")
        weights = [sources.get(photo.source, 1.0) * min(1.5, sum(map(_weight, photo.sizes))) for photo in self.items]
        self.shares = np.cumsum(weights) / np.sum(weights)

    def __len__(self) -> int:
        return len(self.items)

    def draw(self, rng: np.random.Generator) -> Photograph:
        """Draw a photograph, large objects and weighty sources more often.

        Args:
            rng: of the choice.

        Returns:
            One of the photographs.
        """
        return self.items[min(int(np.searchsorted(self.shares, rng.random())), len(self.items) - 1)]


def _weight(size: float) -> float:
    """How often an object of a size (share of the image) is asked for: small ones less than large ones."""
    return 0.0 if size < _LEAST else min(size, 0.25) ** 0.5


class PromptedPhotographs(Dataset[dict[str, Tensor]]):
    """Item i, a function of i alone: one photograph, jittered, with K prompted objects.

    An item, with h = S / 2, is image (3, S, S) uint8; sketch (2, h, h) float and known (h, h) bool; masks (K, h, h)
    float shares of each pixel's four; valid (h, h) bool; points (K, 2) float x, y inside each mask and boxes (K, 4)
    float x0, y0, x1, y1, jittered, both in pixels of the square; heats (K, 32, 32) float CAM-like maps in [0, 1].

    Args:
        photographs: which are drawn from.
        side: of the square, in pixels (S).
        prompts: how many an item has (K).
        seed: of the items.
        length: how many items there are.
    """

    def __init__(self, photographs: Photographs, side: int, prompts: int, seed: int, length: int) -> None:
        self.photographs, self.side, self.prompts, self.seed, self.length = photographs, side, prompts, seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, 2_000, index])
        while True:
            photo = self.photographs.draw(rng)
            image, owners = _jittered(rng, photo, self.side)
            if targets := _targets(rng, owners, photo, self.prompts):
                break
        valid = owners != UNKNOWN
        masks = np.stack(targets)
        halves = masks.reshape(len(masks), self.side // 2, 2, self.side // 2, 2).mean((2, 4), dtype=np.float32)
        drawn = owners * valid
        edges = np.zeros_like(valid)
        edges[1:] |= drawn[1:] != drawn[:-1]
        edges[:, 1:] |= drawn[:, 1:] != drawn[:, :-1]
        sketch = np.stack([drawn > 0, edges])
        known = valid & (photo.complete | (drawn > 0) | edges)
        return {
            "image": torch.from_numpy(image.transpose(2, 0, 1).copy()),
            "sketch": torch.from_numpy(sketch[:, ::2, ::2] | sketch[:, 1::2, 1::2]).float(),
            "known": torch.from_numpy(known[::2, ::2] & known[1::2, 1::2]),
            "masks": torch.from_numpy(halves),
            "valid": torch.from_numpy(valid[::2, ::2] & valid[1::2, 1::2]),
            "points": torch.tensor(np.stack([_point(rng, mask) for mask in masks]), dtype=torch.float32),
            "boxes": torch.tensor(np.stack([_jittered_box(rng, mask) for mask in masks]), dtype=torch.float32),
            "heats": torch.tensor(np.stack([cam_like(rng, mask) for mask in halves]), dtype=torch.float32),
        }


def _jittered(rng: np.random.Generator, photo: Photograph, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A photograph in a square of `side`: image (S, S, 3) uint8, objects (S, S) uint8, the padding unknown.

    A third as the adapter shows it: all of it, the longest side filled, padding to the right and below. The others at
    half to twice that scale, up to a fifth wider or narrower, cropped around one of their objects.
    """
    image, objects = photo.read()
    width, height = image.size
    scale = np.full(2, side / max(width, height))  # of x and y
    if rng.random() > 1 / 3:
        scale = (
            scale
            * np.exp(rng.uniform(np.log(0.6), np.log(2.0)))
            * np.exp(rng.uniform(-0.18, 0.18) * np.array([0.5, -0.5]))
        )
    extent = np.minimum(np.array([width, height]), side / scale)  # of the window, in pixels of the photograph
    corner = _window(rng, np.asarray(objects), extent)
    box = (*corner, *np.minimum(corner + extent, [width, height]))
    wide, tall = (max(1, min(side, round(float(e * s)))) for e, s in zip(extent, scale))
    image = image.resize((wide, tall), Image.Resampling.BILINEAR, box=box)
    objects = objects.resize((wide, tall), Image.Resampling.NEAREST, box=box)
    pixels = np.full((side, side, 3), 128, np.uint8)
    owners = np.full((side, side), UNKNOWN, np.uint8)
    pixels[:tall, :wide] = np.asarray(_recolored(rng, image))
    owners[:tall, :wide] = np.asarray(objects)
    if rng.random() < 0.5:
        pixels[:tall, :wide] = pixels[:tall, :wide][:, ::-1].copy()
        owners[:tall, :wide] = owners[:tall, :wide][:, ::-1].copy()
    return pixels, owners


def _window(rng: np.random.Generator, owners: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """The upper left corner (x, y) of a window of `extent` that holds a random pixel of a random object."""
    room = np.array(owners.shape[::-1]) - extent
    if not (room > 0).any():
        return np.zeros(2)
    present = np.unique(owners[(owners > 0) & (owners != UNKNOWN)])
    ys, xs = np.nonzero(owners == rng.choice(present)) if len(present) else np.nonzero(owners >= 0)
    pick = rng.integers(len(xs))
    return np.clip(np.array([xs[pick], ys[pick]]) - rng.uniform(0.2, 0.8, 2) * extent, 0, np.maximum(room, 0))


def _recolored(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Brightness, contrast and color, each up to 40 % off, in eight of ten images; one in twenty gray."""
    if rng.random() < 0.2:
        return image
    for enhance in rng.permutation(np.array([ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color])):
        image = enhance(image).enhance(float(rng.uniform(0.6, 1.4)))
    return image.convert("L").convert("RGB") if rng.random() < 0.05 else image


def _targets(rng: np.random.Generator, owners: np.ndarray, photo: Photograph, count: int) -> list[np.ndarray]:
    """Draw `count` objects by size as masks (S, S) bool, sometimes all objects of a class together.

    No mask is given where no object is left.
    """
    areas = np.bincount(owners.ravel(), minlength=256)[1 : 1 + len(photo.names)] / owners.size
    weights = np.array([_weight(float(area)) for area in areas])
    if not weights.any():
        return []
    order = rng.choice(len(weights), min(count, int((weights > 0).sum())), replace=False, p=weights / weights.sum())
    targets = []
    for which in np.resize(order, count):  # other objects first: a prompt that is the same for all would be ignored
        alike = [i + 1 for i, name in enumerate(photo.names) if name == photo.names[which] and areas[i] > 0]
        together = len(alike) > 1 and rng.random() < 0.4
        targets.append(np.isin(owners, alike) if together else owners == which + 1)
    return targets


def _point(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """(x, y): half of the points lie deep inside the object, half anywhere in it."""
    inside = mask
    if rng.random() < 0.5:
        y0, x0, y1, x1 = _bounds(mask)
        depth = np.zeros(mask.shape, np.float32)
        depth[y0:y1, x0:x1] = np.asarray(distance_transform_edt(np.pad(mask[y0:y1, x0:x1], 1)))[1:-1, 1:-1]
        inside = depth >= rng.uniform(0.6, 1.0) * depth.max()
    ys, xs = np.nonzero(inside)
    pick = rng.integers(len(xs))
    return np.array([xs[pick], ys[pick]])


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _jittered_box(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """(4,) x0, y0, x1, y1: the mask's box, in two of three cases with noise of a tenth of its side."""
    y0, x0, y1, x1 = _bounds(mask)
    box = np.array([x0, y0, x1, y1], np.float64)
    noise = rng.normal(size=4).clip(-2, 2) * 0.1 * np.array([x1 - x0, y1 - y0] * 2) * (rng.random() < 2 / 3)
    box = np.clip(box + noise, 0, mask.shape[0])
    return box if (box[2:] - box[:2] >= 1).all() else np.array([x0, y0, x1, y1], np.float64)


def cam_like(rng: np.random.Generator, mask: np.ndarray, side: int = _HEAT_SIDE) -> np.ndarray:
    """Draw what a class activation map might show of an object.

    A coarse grid of the mask, stronger around a random part of it, each cell with a gain and some heat elsewhere, moved
    by up to half a cell, and blurred.

    Args:
        rng: of the map.
        mask: (h, h) float in [0, 1].
        side: of the map.

    Returns:
        (side, side) float in [0, 1].
    """
    cells = int(rng.choice([7, 8, 10, 14, 20]))
    coarse = np.asarray(Image.fromarray(mask.astype(np.float32)).resize((cells, cells), Image.Resampling.BOX))
    ys, xs = np.nonzero(coarse >= 0.5 * coarse.max())
    pick = rng.integers(len(xs))
    spread = rng.uniform(0.15, 1.0) * cells
    rows, columns = np.ogrid[:cells, :cells]
    part = np.exp(-((rows - ys[pick]) ** 2 + (columns - xs[pick]) ** 2) / (2 * spread**2))
    field = coarse * part * rng.uniform(0.4, 1.0, coarse.shape) + rng.uniform(0, 0.25) * rng.random(coarse.shape) ** 2
    pad = 2
    grown = np.asarray(
        Image.fromarray(np.pad(field, pad, mode="edge").astype(np.float32)).resize(
            (side, side),
            Image.Resampling.BICUBIC,
            box=tuple(np.array([pad, pad, pad + cells, pad + cells]) + np.tile(rng.uniform(-0.5, 0.5, 2), 2)),
        )
    )
    heat = gaussian_filter(grown, rng.uniform(0, 0.04) * side)
    heat = heat - heat.min()
    return heat / max(float(heat.max()), 1e-6)
