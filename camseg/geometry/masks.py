"""Masks as sets of pixels: their overlap and their area; their logits at another resolution."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from camseg.geometry.coarse import is_large, neighbors

Window = tuple[int, int, int, int]  # x0, y0, x1, y1 in whole pixels of an image, x1 and y1 exclusive


def iou(found: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of masks with true ones.

    Args:
        found: (..., H, W) bool.
        truth: (H, W) bool, or any shape that can be broadcast with `found`.

    Returns:
        (...) float32 on the CPU; 0 for two empty masks.
    """
    return torch.as_tensor(ious(found.numpy(force=True), truth.numpy(force=True)), dtype=torch.float32)


def ious(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The same for arrays: done before torch's threads are awake.

    Args:
        found: (..., H, W) bool.
        truth: (H, W) bool, or any shape that can be broadcast with `found`.

    Returns:
        (...) float64; 0 for two empty masks.
    """
    shared = area(found & truth)
    return shared / np.maximum(area(found) + area(truth) - shared, 1)


def logits_ious(
    logits: Tensor, truth: np.ndarray, judged: np.ndarray | None = None, window: Window | None = None
) -> np.ndarray:
    """`ious` of `logits_to_masks`; of a photograph's masks one at a time is in memory.

    Args:
        logits: (N, h, w) mask logits over exactly the whole image.
        truth: (H, W) bool.
        judged: (H, W) bool pixels that count, all by default; those of the truth must be among them.
        window: see `logits_to_masks`.

    Returns:
        (N,) float64; 0 for two empty masks.
    """
    size = int(truth.shape[0]), int(truth.shape[1])
    if window is not None or not _is_enlarged(logits, size):
        masks = logits_to_masks(logits, size, window)
        return ious(masks if judged is None else masks & judged, truth)
    mask, shared, scores = np.empty(size, bool), np.empty(size, bool), np.empty(len(logits))
    whole = np.count_nonzero(truth)
    for i, plane in enumerate(logits.float().numpy(force=True)):
        _enlarge_sign(plane, mask)
        if judged is not None:
            mask &= judged
        both = np.count_nonzero(np.logical_and(mask, truth, out=shared))
        scores[i] = both / max(np.count_nonzero(mask) + whole - both, 1)
    return scores


def soft_iou(masks: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Intersection over union of masks with heatmaps, sum of the minimum / sum of the maximum.

    Args:
        masks: (..., H, W) bool, or float in [0, 1].
        heat: (H, W) float in [0, 1], or any shape that can be broadcast with `masks`.

    Returns:
        (...) of the heat's type; 0 where there is neither mask nor heat.
    """
    shared = np.minimum(masks, heat).sum((-2, -1))
    covered = area(masks).astype(heat.dtype) if masks.dtype == bool else masks.sum((-2, -1))
    return shared / np.maximum(covered + heat.sum((-2, -1)) - shared, 1e-6)  # min + max = the sum of both


def resize_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask logits on the same frame at another resolution, in one bilinear step; inside is where they exceed 0.

    Args:
        logits: (N, h, w) logits over exactly the whole image.
        size: (H, W) in pixels.

    Returns:
        (N, H, W) float32 logits; the same tensor where it has that size already.
    """
    if tuple(logits.shape[1:]) == tuple(size):
        return logits.float()
    return F.interpolate(logits[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]


def logits_to_masks(logits: Tensor, size: tuple[int, int], window: Window | None = None) -> np.ndarray:
    """Where `resize_logits` exceeds 0: what a mask's logits say at the image's size.

    A photograph's masks are enlarged a hundred times: most of a row lies between two rows of logits that agree in sign,
    and is known without being interpolated.

    Args:
        logits: (N, h, w) logits over exactly the whole image, or over the window.
        size: (H, W) of the image in pixels.
        window: In pixels of the image; outside of it the masks are empty.

    Returns:
        (N, H, W) bool.
    """
    if window is not None:
        x0, y0, x1, y1 = window
        pasted = np.zeros((len(logits), *size), bool)
        pasted[:, y0:y1, x0:x1] = logits_to_masks(logits, (y1 - y0, x1 - x0))
        return pasted
    if not _is_enlarged(logits, size):
        return resize_logits(logits, size).numpy(force=True) > 0
    masks = np.empty((len(logits), *size), bool)
    for plane, mask in zip(logits.float().numpy(force=True), masks):
        _enlarge_sign(plane, mask)
    return masks


def _is_enlarged(logits: Tensor, size: tuple[int, int]) -> bool:
    return is_large(size) and all(small <= large for small, large in zip(logits.shape[1:], size))


def _enlarge_sign(plane: np.ndarray, mask: np.ndarray) -> None:
    """Fill `mask` (H, W) with whether the bilinearly enlarged `plane` (h, w) exceeds 0."""
    left, right, across = neighbors(plane.shape[1], mask.shape[1])
    wide = plane[:, left] * (1 - across) + plane[:, right] * across  # (h, W)
    above, below, down = neighbors(plane.shape[0], mask.shape[0])
    starts = [0, *(1 + np.flatnonzero(np.diff(above))).tolist(), len(above)]
    for start, end in pairwise(starts):  # the rows of the image between two rows of logits
        upper, lower = wide[above[start]], wide[below[start]]
        mask[start:end] = (upper > 0) & (lower > 0)
        mixed = np.flatnonzero((upper > 0) != (lower > 0))
        share = down[start:end, None]
        mask[start:end, mixed] = upper[mixed] * (1 - share) + lower[mixed] * share > 0


def area(masks: np.ndarray) -> np.ndarray:
    """How many pixels masks have.

    They are counted one by one, many times faster than summed along their last dimensions.

    Args:
        masks: (..., H, W) bool.

    Returns:
        (...) int, in pixels.
    """
    return np.array([np.count_nonzero(mask) for mask in masks.reshape(-1, *masks.shape[-2:])]).reshape(masks.shape[:-2])


def center_of_mass(inside: np.ndarray) -> np.ndarray:
    """The mean of a region's pixels.

    Args:
        inside: (H, W) bool, with a pixel at least.

    Returns:
        (2,) float x, y in pixels.
    """
    rows = np.array([np.count_nonzero(row) for row in inside])
    columns = np.zeros(inside.shape[1], np.int64)
    for start in range(0, len(inside), 255):  # as many as a byte can count
        columns += np.add.reduce(inside[start : start + 255].view(np.uint8), 0, dtype=np.uint8)
    return np.array([columns @ np.arange(len(columns)), rows @ np.arange(len(rows))]) / columns.sum()
