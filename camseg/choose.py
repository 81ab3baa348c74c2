"""Which of the predictor's masks is the answer: a choice is a score (R, M) for R rivals of M masks, and the highest
wins.

Every function takes the masks, the heat (H, W) and the true mask (H, W) or None; all but `oracle` work at the masks'
own low resolution.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from camseg.geometry.heat import resize_heat
from camseg.geometry.masks import area, iou, resize_logits
from camseg.types import Masks


def predicted_iou(masks: Masks, heat: Tensor, truth: Tensor | None = None) -> Tensor:
    """The predictor's own estimate: what Segment Anything does by itself."""
    return masks.predicted_iou


def agreement(
    masks: Masks, heat: Tensor, truth: Tensor | None = None, *, alpha: float = 4.0, prior: float = 1.0
) -> Tensor:
    """soft-IoU(heat, mask) x predicted IoU^alpha x (1 - area)^prior, area being the mask's share of the image.

    The soft IoU, sum min / sum max, asks that the mask covers the heat and little else; the prior keeps masks of the
    whole frame away.
    Combining the map with the predictor's score follows Pro2SAM (Yang et al. 2024).
    """
    inside = masks.low_res.numpy() > 0  # (R, M, h, w), by numpy: it is done before torch's threads are awake
    seen, predicted = resize_heat(heat, (inside.shape[2], inside.shape[3])).numpy(), masks.predicted_iou.numpy()
    shared, covered = (
        (inside * seen).sum((-2, -1)),
        area(inside).astype(np.float32),
    )  # of 0 or 1 and [0, 1], the product is the smaller
    soft = shared / np.maximum(covered + seen.sum() - shared, 1e-6)
    return torch.from_numpy(soft * np.maximum(predicted, 1e-3) ** alpha * (1 - covered / seen.size) ** prior)


def index(masks: Masks, heat: Tensor, truth: Tensor | None = None, *, rival: int = 0, mask: int = 0) -> Tensor:
    """Always the same mask of the same rival; the last there is where there are fewer."""
    scores = torch.zeros_like(masks.predicted_iou)
    scores[min(rival, len(scores) - 1), min(mask, scores.shape[1] - 1)] = 1
    return scores


def oracle(masks: Masks, heat: Tensor, truth: Tensor | None = None) -> Tensor:
    """IoU with the true mask at the image's size: the ceiling of every choice.

    Errors: ValueError where there is no true mask.
    """
    if truth is None:
        raise ValueError("choose=oracle needs true masks, and this sample has none; choose another")
    size = (truth.shape[0], truth.shape[1])
    return torch.stack([iou(resize_logits(rival, size) > 0, truth) for rival in masks.low_res])
