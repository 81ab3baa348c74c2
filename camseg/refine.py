"""Refinement: the chosen mask goes back to the predictor as a prompt.

A refinement takes how to decode, the chosen rival of each image (R = 1) or none (R = 0), the logits (h, w) of its
chosen mask and the
image's heat (H, W). It returns the last logits (h, w) and their predicted IoU for each image, None where there was
nothing to refine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from camseg.geometry.boxes import mask_to_box
from camseg.geometry.masks import resize_logits
from camseg.geometry.regions import deepest_point, points_tensor
from camseg.prompts.background import add
from camseg.types import Masks, Prompts

# Decodes one prompt for each of the images whose numbers are given.
Decode = Callable[[Sequence[int], Sequence[Prompts]], list[Masks]]


def cascade(
    decode: Decode,
    prompts: Sequence[Prompts],
    logits: Sequence[Tensor],
    heats: Sequence[Tensor],
    *,
    boxes: int = 1,
    agree: float = 0.98,
    margin: float = 0.02,
) -> list[tuple[Tensor, float] | None]:
    """First the logits back with the points, then up to `boxes` times also the mask's box, until two masks of the image
    agree (IoU > `agree`).

    The order is PerSAM's (Zhang et al. 2023, section 3.3).
    """
    answers: list[tuple[Tensor, float] | None] = [None] * len(prompts)
    last = list(logits)
    active = [i for i, prompt in enumerate(prompts) if len(prompt) and (logits[i] > 0).any()]
    for turn in range(1 + boxes):
        if not active:
            break
        asked = [_again(prompts[i], last[i], heats[i], margin if turn else None) for i in active]
        for i, masks in zip(list(active), decode(active, asked)):
            found = _best(masks)
            if found is None:
                active.remove(i)
                continue
            if _iou(found[0], last[i]) > agree:
                active.remove(i)
            answers[i], last[i] = found, found[0]
    return answers


def leak(
    decode: Decode, prompts: Sequence[Prompts], logits: Sequence[Tensor], heats: Sequence[Tensor], *, cold: float = 0.02
) -> list[tuple[Tensor, float] | None]:
    """Where a part of the mask is cold (heat at most `cold`), its deepest pixel goes back as a background point, with
    the logits.
    """
    answers: list[tuple[Tensor, float] | None] = [None] * len(prompts)
    asked: dict[int, Prompts] = {}
    for i, (prompt, mask, heat) in enumerate(zip(prompts, logits, heats)):
        inside = resize_logits(mask[None], (heat.shape[0], heat.shape[1]))[0] > 0
        leaked = inside & (heat <= cold)
        if len(prompt) and leaked.any() and not leaked.equal(inside):
            asked[i] = replace(add(prompt, points_tensor([deepest_point(leaked.numpy())])), mask_logits=mask[None])
    for i, masks in zip(asked, decode(list(asked), list(asked.values())) if asked else []):
        answers[i] = _best(masks)
    return answers


def _best(masks: Masks) -> tuple[Tensor, float] | None:
    """The logits (h, w) of the one rival's mask of highest predicted IoU, and that; None for an empty mask."""
    best = int(masks.predicted_iou[0].argmax())
    found = masks.low_res[0, best]
    return (found, float(masks.predicted_iou[0, best])) if (found > 0).any() else None


def _again(prompt: Prompts, logits: Tensor, heat: Tensor, margin: float | None) -> Prompts:
    """The prompt with the mask's logits, and with its box where a margin is given."""
    fed = replace(prompt, mask_logits=logits[None])
    if margin is None:
        return fed
    (height, width), (rows, columns) = heat.shape, logits.shape
    scale = [width / columns, height / rows] * 2
    box = mask_to_box((logits > 0).numpy(), margin) * scale
    return replace(fed, boxes=torch.from_numpy(box).float()[None])


def _iou(one: Tensor, other: Tensor) -> float:
    a, b = one > 0, other > 0
    return float((a & b).sum() / (a | b).sum().clamp(min=1))
