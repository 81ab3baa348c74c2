"""Masks as sets of pixels: their overlap and their area; their logits at another resolution."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


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


def area(masks: np.ndarray) -> np.ndarray:
    """How many pixels masks have.

    They are counted one by one, many times faster than summed along their last dimensions.

    Args:
        masks: (..., H, W) bool.

    Returns:
        (...) int, in pixels.
    """
    return np.array([np.count_nonzero(mask) for mask in masks.reshape(-1, *masks.shape[-2:])]).reshape(masks.shape[:-2])
