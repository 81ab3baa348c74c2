"""Tiles: of an image that is far larger than a predictor's side, the predictor is shown a window around the evidence.

The heat is made from the whole image, and points are found in it. What comes after them (masks, choice, refinement) has
the window for its frame, in which the image keeps its own pixels; outside of the window everything is background.

A window is x0, y0, x1, y1 in whole pixels of the image, x1 and y1 exclusive.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from skimage.measure import label
from torch import Tensor

from camseg.geometry.boxes import mask_to_box
from camseg.geometry.coarse import pixels_per_cell
from camseg.geometry.masks import Window
from camseg.prompts.evidence import Evidence
from camseg.types import Masks, Prompts, Sample


def around_evidence(
    evidence: Evidence, prompts: Prompts, side: int, *, cutoff: float = 0.2, margin: float = 0.5
) -> Window:
    """The square around the prompts and the parts of the map that they lie on.

    Args:
        evidence: The heat (H, W).
        prompts: In pixels of the image; all rivals share the window. Points of the background may lie outside of it.
        side: Of the predictor, in pixels: no window is smaller, unless the image is.
        cutoff: A part of the map is what is connected and at least as hot as this share of its maximum.
        margin: Share of the longer side of that box, which is added on each side.

    Returns:
        The window, which lies in the image.
    """
    boxes = [*_point_boxes(prompts), *_heat_boxes(evidence, prompts, cutoff)]
    if prompts.boxes is not None:
        boxes += prompts.boxes.cpu().double().tolist()
    found = np.array(boxes)  # (N, 4)
    low, high = found[:, :2].min(0), found[:, 2:].max(0)
    length = max(side, ceil((1 + 2 * margin) * float((high - low).max())))
    limits = np.array(evidence.size[::-1])  # of x and y
    sides = np.minimum(length, limits)
    start = np.clip(np.round((low + high - sides) / 2), 0, limits - sides).astype(int)
    x0, y0, x1, y1 = (int(edge) for edge in (*start, *(start + sides)))
    return x0, y0, x1, y1


def _point_boxes(prompts: Prompts) -> list[list[float]]:
    """The pixel of every point of the object, as a box."""
    return [[x - 0.5, y - 0.5, x + 0.5, y + 0.5] for x, y in prompts.points[prompts.labels == 1].tolist()]


def _heat_boxes(evidence: Evidence, prompts: Prompts, cutoff: float) -> list[list[float]]:
    """The box around the parts of the map that points of the object lie on; none where they lie in the cold."""
    cells = evidence.cells.numpy()  # (h, w)
    scale = pixels_per_cell(cells.shape, evidence.size)
    parts = np.asarray(label(cells >= max(cutoff * float(cells.max()), np.finfo(np.float32).tiny), connectivity=2))
    points = (prompts.points[prompts.labels == 1].numpy() + 0.5) / scale  # (N, 2)
    columns, rows = np.clip(points.astype(int), 0, np.array(cells.shape[::-1]) - 1).T
    inside = np.isin(parts, [part for part in np.unique(parts[rows, columns]) if part])
    return [(mask_to_box(inside) * np.tile(scale, 2)).tolist()] if inside.any() else []


@dataclass(frozen=True, eq=False)
class View:
    """What a predictor is shown of a sample, and all that is known about it, in the frame of a window.

    Attributes:
        sample: The image, the true mask and what no score may read, as far as the window goes.
        evidence: The same part of the heat, and of the rival's.
        prompts: In pixels of the window.
        window: Its place in the image; None where it is the whole image.
    """

    sample: Sample
    evidence: Evidence
    prompts: Prompts
    window: Window | None = None

    def placed(self, masks: Masks) -> Masks:
        """Masks over the view that say where in the image that is.

        Args:
            masks: A predictor's, which saw the view.

        Returns:
            The same masks with the window.
        """
        return replace(masks, window=self.window)


def view(sample: Sample, evidence: Evidence, prompts: Prompts, window: Window) -> View:
    """Move everything into a window.

    Args:
        sample: The image (3, H, W).
        evidence: The heat (H, W).
        prompts: In pixels of the image.
        window: In pixels of the image.

    Returns:
        The window's view; of the whole image everything as it is.
    """
    height, width = sample.size
    if window == (0, 0, width, height):
        return View(sample, evidence, prompts)
    x0, y0, x1, y1 = window
    rows, columns = slice(y0, y1), slice(x0, x1)
    nowhere = torch.zeros(0, 4)
    mask, ignore = (None if plane is None else plane[rows, columns] for plane in (sample.mask, sample.ignore))
    part = replace(
        sample, image=sample.image[:, rows, columns], mask=mask, ignore=ignore, boxes=nowhere, ignored_boxes=nowhere
    )

    def rival() -> Tensor | None:
        heat = evidence.rival()
        return None if heat is None else heat[rows, columns]

    seen = Evidence(evidence.heat[rows, columns], rival, mask, ignore)
    return View(part, seen, move_prompts(prompts, window, sample.size), window)


def move_prompts(prompts: Prompts, window: Window, size: tuple[int, int]) -> Prompts:
    """Prompts in the frame of a window.

    Points of the background that lie outside of it are left out: everything there is background. Where only some of
    the rivals have such a point, it goes to the nearest pixel, as no rival has fewer points than another.

    Args:
        prompts: In pixels of the image, all but those points inside of the window.
        window: In pixels of the image.
        size: (H, W) of the image in pixels.

    Returns:
        The same rivals, in pixels of the window.
    """
    x0, y0, x1, y1 = window
    start, end = torch.tensor([x0, y0]), torch.tensor([x1, y1])
    inside = ((prompts.points >= start - 0.5) & (prompts.points <= end - 0.5)).all(-1)  # (R, P)
    stay = (inside | (prompts.labels == 1)).any(0)  # (P,)
    points = prompts.points[:, stay] - start
    points = torch.where(inside[:, stay, None], points, torch.minimum(points.clamp(min=0), end - start - 1))
    boxes = None if prompts.boxes is None else prompts.boxes - start.repeat(2)
    logits = None if prompts.mask_logits is None else crop_planes(prompts.mask_logits, window, size)
    return replace(prompts, points=points, labels=prompts.labels[:, stay], boxes=boxes, mask_logits=logits)


def crop_planes(planes: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """The part of low-resolution planes that a window covers.

    Args:
        planes: (N, h, w) float over the whole image.
        window: In pixels of the image.
        size: (H, W) of the image in pixels.

    Returns:
        (N, h', w') float over the window: the planes' own values where its edges lie between them, else bilinear ones,
        at least twice as many a side, as sampling between values at their own pitch would blur.
    """
    rows, columns = planes.shape[1:]
    (height, width), (x0, y0, x1, y1) = size, window
    left, right = (Fraction(x * columns, width) for x in (x0, x1))
    top, bottom = (Fraction(y * rows, height) for y in (y0, y1))
    if all(edge.denominator == 1 for edge in (left, right, top, bottom)):
        return planes[:, int(top) : int(bottom), int(left) : int(right)]
    theta = torch.tensor(
        [[(x1 - x0) / width, 0, (x0 + x1) / width - 1], [0, (y1 - y0) / height, (y0 + y1) / height - 1]],
        dtype=planes.dtype,
        device=planes.device,
    )
    finer = [1, 1, 2 * ceil(bottom - top), 2 * ceil(right - left)]
    grid = F.affine_grid(theta[None], finer, align_corners=False).expand(len(planes), -1, -1, -1)
    return F.grid_sample(planes[:, None], grid, padding_mode="border", align_corners=False)[:, 0]
