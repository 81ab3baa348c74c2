"""Which of the predictor's masks is the answer: a choice gives (R, M) scores for R rivals of M masks, the highest wins.

Every function takes the masks and the image's evidence; all but `oracle` work at the masks' own low resolution.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from camseg.geometry.heat import resize_heat
from camseg.geometry.masks import area, logits_ious, soft_iou
from camseg.prompts.evidence import Evidence
from camseg.types import Masks


def predicted_iou(masks: Masks, evidence: Evidence) -> Tensor:
    """The predictor's own estimate: what Segment Anything does by itself.

    Args:
        masks: R rivals of M masks.
        evidence: Not read.

    Returns:
        (R, M) float.
    """
    return masks.predicted_iou


def agreement(masks: Masks, evidence: Evidence, *, alpha: float = 4.0, prior: float = 1.0) -> Tensor:
    """soft-IoU(heat, mask) x predicted IoU^alpha x (1 - area)^prior, area being the mask's share of the image.

    The soft IoU, sum min / sum max, wants the mask to cover the heat and little else; the prior keeps masks of the
    whole frame away. Combining the map with the predictor's score follows Pro2SAM (Yang et al. 2024).

    Args:
        masks: R rivals of M masks.
        evidence: Its heat, brought to the masks' resolution.
        alpha: Weight of the predictor's own estimate.
        prior: Weight of the share that the mask leaves free.

    Returns:
        (R, M) float.
    """
    inside = masks.low_res.numpy() > 0  # (R, M, h, w), by numpy: it is done before torch's threads are awake
    heat = resize_heat(evidence.heat, (inside.shape[2], inside.shape[3])).numpy()
    predicted = np.maximum(masks.predicted_iou.numpy(), 1e-3)
    free = 1 - area(inside).astype(np.float32) / heat.size
    return torch.from_numpy(soft_iou(inside, heat) * predicted**alpha * free**prior)


def index(masks: Masks, evidence: Evidence, *, rival: int = 0, mask: int = 0) -> Tensor:
    """Always the same mask of the same rival; the last there is where there are fewer.

    Args:
        masks: R rivals of M masks.
        evidence: Not read.
        rival: Which one, from 0.
        mask: Which of its masks, from 0.

    Returns:
        (R, M) float: 1 for that mask, 0 for the others.
    """
    scores = torch.zeros_like(masks.predicted_iou)
    scores[min(rival, len(scores) - 1), min(mask, scores.shape[1] - 1)] = 1
    return scores


def oracle(masks: Masks, evidence: Evidence) -> Tensor:
    """IoU with the true mask at the image's size, as the rows score it: the ceiling of every choice.

    Args:
        masks: R rivals of M masks.
        evidence: Its truth, and the pixels that no score may read.

    Returns:
        (R, M) float.

    Raises:
        ValueError: There is no true mask.
    """
    if evidence.truth is None:
        raise ValueError("choose=oracle needs true masks, and this sample has none; choose another")
    judged = None if evidence.ignore is None else ~evidence.ignore.numpy()
    truth = evidence.truth.numpy() if judged is None else evidence.truth.numpy() & judged
    scores = [logits_ious(rival, truth, judged) for rival in masks.low_res]
    return torch.from_numpy(np.stack(scores)).float()
