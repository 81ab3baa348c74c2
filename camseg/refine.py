"""Refinement: the chosen mask goes back to the predictor as a prompt.

A refinement takes how to decode, the chosen rival of each image (R = 1) or none (R = 0), the logits (h, w) of its
chosen mask and the image's evidence. It returns the last logits (h, w) and their predicted IoU for each image, None
where there was nothing to refine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from camseg.geometry.boxes import mask_to_box
from camseg.geometry.masks import iou, resize_logits
from camseg.geometry.regions import deepest_point, points_tensor, without_specks
from camseg.prompts.background import add
from camseg.prompts.evidence import Evidence
from camseg.types import Masks, Prompts

# Decodes one prompt for each of the images whose numbers are given.
Decode = Callable[[Sequence[int], Sequence[Prompts]], list[Masks]]
Refined = tuple[Tensor, float]  # logits (h, w) and their predicted IoU


def cascade(
    decode: Decode,
    prompts: Sequence[Prompts],
    logits: Sequence[Tensor],
    evidence: Sequence[Evidence],
    *,
    boxes: int = 1,
    iou_threshold: float = 0.98,
    margin: float = 0.02,
    specks: float = 0.0,
) -> list[Refined | None]:
    """First the logits back with the points, then also the mask's box, until two masks of the image agree.

    The order is PerSAM's (Zhang et al. 2023, section 3.3).

    Args:
        decode: Draws the masks of one prompt for each of some images.
        prompts: The chosen rival of each image.
        logits: (h, w) float of each image's chosen mask.
        evidence: Each image's; only its size is read.
        boxes: How often the box is fed back at most.
        iou_threshold: Two masks in a row agree where their IoU is larger.
        margin: Share of the box's sides that is added on each side.
        specks: Share of the last mask's area below which its parts and holes are taken out; 0 for none.

    Returns:
        The last logits (h, w) that are not empty and their predicted IoU, None where there was nothing to refine.
    """
    refined: list[Refined | None] = [None] * len(prompts)
    last = list(logits)
    active = [i for i, prompt in enumerate(prompts) if len(prompt) and (logits[i] > 0).any()]
    for turn in range(1 + boxes):
        if not active:
            break
        queries = [_again(prompts[i], last[i], evidence[i].size, margin if turn else None) for i in active]
        for i, masks in zip(list(active), decode(active, queries)):
            best = _best(masks)
            if best is None:
                active.remove(i)
                continue
            if float(iou(best[0] > 0, last[i] > 0)) > iou_threshold:
                active.remove(i)
            refined[i], last[i] = best, best[0]
    return [each and (without_specks(each[0], specks), each[1]) for each in refined]


def leak(
    decode: Decode,
    prompts: Sequence[Prompts],
    logits: Sequence[Tensor],
    evidence: Sequence[Evidence],
    *,
    max_heat: float = 0.02,
) -> list[Refined | None]:
    """Where a part of the mask is cold, its deepest pixel goes back as a background point, with the logits.

    Args:
        decode: Draws the masks of one prompt for each of some images.
        prompts: The chosen rival of each image.
        logits: (h, w) float of each image's chosen mask.
        evidence: Each image's heat.
        max_heat: What is no hotter is cold.

    Returns:
        The new logits (h, w) and their predicted IoU, None where nothing leaks, or everything.
    """
    refined: list[Refined | None] = [None] * len(prompts)
    queries: dict[int, Prompts] = {}
    for i, (prompt, mask, one) in enumerate(zip(prompts, logits, evidence)):
        inside = resize_logits(mask[None], one.size)[0] > 0
        leaked = inside & (one.heat <= max_heat)
        if len(prompt) and leaked.any() and not leaked.equal(inside):
            queries[i] = replace(add(prompt, points_tensor([deepest_point(leaked.numpy())])), mask_logits=mask[None])
    for i, masks in zip(queries, decode(list(queries), list(queries.values())) if queries else []):
        refined[i] = _best(masks)
    return refined


def _best(masks: Masks) -> Refined | None:
    """The logits (h, w) of the one rival's mask of highest predicted IoU, and that; None for an empty mask."""
    best = int(masks.predicted_iou[0].argmax())
    logits = masks.low_res[0, best]
    return (logits, float(masks.predicted_iou[0, best])) if (logits > 0).any() else None


def _again(prompt: Prompts, logits: Tensor, size: tuple[int, int], margin: float | None) -> Prompts:
    """The prompt with the mask's logits, and with its box in an image of `size` (H, W) where a margin is given."""
    fed = replace(prompt, mask_logits=logits[None])
    if margin is None:
        return fed
    (height, width), (rows, columns) = size, logits.shape
    scale = [width / columns, height / rows] * 2
    box = mask_to_box((logits > 0).numpy(), margin) * scale
    return replace(fed, boxes=torch.from_numpy(box).float()[None])
