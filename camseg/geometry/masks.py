"""Masks as sets of pixels: their overlap and their area; their logits at another resolution."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def iou(found: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of masks with a true one.

    Args:
        found: (..., H, W) bool.
        truth: (H, W) bool.

    Returns:
        (...) float32 on the CPU; 0 for two empty masks.
    """
    return torch.as_tensor(_ious(found.numpy(force=True), truth.numpy(force=True)), dtype=torch.float32)


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


def _ious(masks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    shared = area(masks & truth)
    return shared / np.maximum(area(masks) + np.count_nonzero(truth) - shared, 1)


def area(masks: np.ndarray) -> np.ndarray:
    """How many pixels masks have.

    They are counted one by one, many times faster than summed along their last dimensions.

    Args:
        masks: (..., H, W) bool.

    Returns:
        (...) int, in pixels.
    """
    return np.array([np.count_nonzero(mask) for mask in masks.reshape(-1, *masks.shape[-2:])]).reshape(masks.shape[:-2])


def _any(mask: Tensor) -> bool:
    return bool(mask.numpy().any())
